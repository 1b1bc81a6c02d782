"""The engine on a datastore of Metaflow: settings, jobs, and the values that they work on."""
