"""Amazon S3 and the stores that implement its protocol."""
