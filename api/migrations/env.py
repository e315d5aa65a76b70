"""How Alembic runs the migrations: on the connection, and in the transaction, of api.store.migrate."""

from alembic import context

from api.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    # SQLite changes a table by copying it, which batch mode does.
    render_as_batch=True,
)
context.run_migrations()
