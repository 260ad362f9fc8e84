"""The durable facts: schema, migrations, one writer, many readers, and the change feed."""
