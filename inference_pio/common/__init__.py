"""Names under which other packages know the plugin interface."""
