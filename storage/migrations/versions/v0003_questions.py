"""What answers need: an example a reason, orders, test accuracy, lists of strings, and views for people's SQL."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SORTED_BY_INDEX = ("val_accuracy", "val_loss", "parameters", "macs", "seconds")

# What differs between the two: a value inside JSON, and a list as rows.
SETTING = {
    "sqlite": "json_extract(s.settings, '$.{}')",
    "postgresql": "(s.settings #>> '{{{}}}')",
}
NUMBER = {
    "sqlite": "CAST(json_extract(l.values_, '$.{}') AS real)",
    "postgresql": "(l.values_ ->> '{}')::double precision",
}
WHOLE = {"sqlite": "json_extract(l.values_, '$.{}')", "postgresql": "(l.values_ ->> '{}')::bigint"}
LAYERS = {
    "sqlite": """
        SELECT c.search_id, c.draw_index, j.key AS position, j.value AS layer,
            substr(j.value, 1, instr(j.value, '=') - 1) AS kind,
            '{"' || replace(replace(substr(j.value, instr(j.value, '=') + 1), ':', '":'), ',', ',"') || '}' AS values_
        FROM candidate AS c, json_each('["' || replace(rtrim(c.layers, '-'), '-', '","') || '"]') AS j
    """,
    "postgresql": """
        SELECT c.search_id, c.draw_index, j.number - 1 AS position, j.value AS layer,
            split_part(j.value, '=', 1) AS kind,
            ('{"' || replace(replace(split_part(j.value, '=', 2), ':', '":'), ',', ',"') || '}')::json AS values_
        FROM candidate AS c,
            unnest(string_to_array(rtrim(c.layers, '-'), '-')) WITH ORDINALITY AS j(value, number)
    """,
}
EPOCHS = {
    "sqlite": """
        SELECT c.search_id, c.draw_index, j.key + 1 AS epoch, json_extract(j.value, '$[0]') AS train_loss,
            json_extract(j.value, '$[1]') AS val_loss, json_extract(j.value, '$[2]') AS val_accuracy
        FROM candidate AS c, json_each(c.curve) AS j WHERE c.curve IS NOT NULL
    """,
    "postgresql": """
        SELECT c.search_id, c.draw_index, j.number AS epoch, (j.value ->> 0)::double precision AS train_loss,
            (j.value ->> 1)::double precision AS val_loss, (j.value ->> 2)::double precision AS val_accuracy
        FROM candidate AS c, json_array_elements(c.curve) WITH ORDINALITY AS j(value, number)
        WHERE c.curve IS NOT NULL
    """,
}


def upgrade() -> None:
    """Add columns, a table, indexes and views; find the examples of what was recorded."""
    op.add_column("candidate", sa.Column("test_loss", sa.Double))
    op.add_column("candidate", sa.Column("test_accuracy", sa.Double))
    op.add_column("candidate", sa.Column("ended_at", sa.DateTime(timezone=True)))
    op.add_column("coordinator", sa.Column("versions", sa.JSON))
    op.add_column("tally", sa.Column("first_index", sa.BigInteger))
    op.create_table(
        "listed",
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("draw_index", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("search_id", "draw_index", name="pk_listed"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_listed_search_id"),
    )
    for name in SORTED_BY_INDEX:
        where = sa.text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_candidate_{name}",
            "candidate",
            ["search_id", name, "draw_index"],
            sqlite_where=where,
            postgresql_where=where,
        )
    ended = sa.text("ending IS NOT NULL")
    op.create_index(
        "ix_attempt_ended", "attempt", ["search_id", "ended_at"], sqlite_where=ended, postgresql_where=ended
    )
    op.execute("""
        UPDATE tally SET first_index = found.first_index
        FROM (SELECT search_id, status, reason, coalesce(layer, -1) AS layer, min(draw_index) AS first_index
            FROM candidate WHERE reason IS NOT NULL GROUP BY 1, 2, 3, 4) AS found
        WHERE tally.search_id = found.search_id AND tally.status = found.status
            AND tally.reason = found.reason AND tally.layer = found.layer
    """)
    for view, query in views(op.get_bind().dialect.name).items():
        op.execute(f"CREATE VIEW {view} AS {query}")


def views(dialect: str) -> dict[str, str]:
    """The queries of the views, by name, for SQLite or Postgres."""

    def setting(path: str, kind: str) -> str:
        path = path.replace(".", ",") if dialect == "postgresql" else path
        value = SETTING[dialect].format(path)
        return f"CAST({value} AS {kind})"

    recipe = f"""
            {setting("space.name", "text")} AS space, {setting("dataset", "text")} AS dataset,
            {setting("seed", "bigint")} AS seed, {setting("recipe.train_images", "bigint")} AS train_images,
            {setting("recipe.batch_size", "bigint")} AS batch_size,
            {setting("recipe.epochs", "bigint")} AS recipe_epochs,
            {setting("recipe.learning_rate", "double precision" if dialect == "postgresql" else "real")}
                AS learning_rate, {setting("device", "text")} AS device"""
    counted = ", ".join(
        f"(SELECT CAST(coalesce(sum(t.candidates), 0) AS bigint) FROM tally AS t "
        f"WHERE t.search_id = s.id AND t.status = '{status}') AS {status}"
        for status in ("rejected", "open", "completed", "failed")
    )
    moment = "{}" if dialect == "postgresql" else "replace({}, ' ', 'T') || '+00:00'"
    created_at, ended_at = moment.format("s.created_at"), moment.format("c.ended_at")
    return {
        "searches": f"SELECT s.name AS search, {created_at} AS created_at, s.netsieve_version, {recipe}, "
        f"s.target, s.drawn, {counted} FROM search AS s",
        "candidates": f"""SELECT s.name AS search, c.draw_index, c.layers, c.status, c.reason,
            c.layer AS failing_layer, c.detail, c.parameters, c.macs, c.train_loss, c.val_loss, c.val_accuracy,
            c.test_loss, c.test_accuracy, c.epochs, c.seconds, {ended_at} AS ended_at, c.attempts,
            {recipe}
            FROM candidate AS c JOIN search AS s ON s.id = c.search_id""",
        "layers": f"""SELECT s.name AS search, l.draw_index, l.position, l.kind, l.layer,
            {NUMBER[dialect].format("channel_factor")} AS channel_factor,
            {WHOLE[dialect].format("kernel_size")} AS kernel_size, {WHOLE[dialect].format("stride")} AS stride,
            {WHOLE[dialect].format("padding")} AS padding, {NUMBER[dialect].format("eps")} AS eps,
            {NUMBER[dialect].format("p")} AS p
            FROM ({LAYERS[dialect]}) AS l JOIN search AS s ON s.id = l.search_id""",
        "measurements": f"""SELECT s.name AS search, m.draw_index, m.epoch, m.train_loss, m.val_loss, m.val_accuracy
            FROM ({EPOCHS[dialect]}) AS m JOIN search AS s ON s.id = m.search_id""",
    }
