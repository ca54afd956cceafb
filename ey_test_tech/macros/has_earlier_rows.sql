{#
    Whether this run adds to what earlier runs have built: the table exists, and no full refresh.

    dbt drops a table first whose partitioning or clustering has changed, and with it the rows
    that a model which reads itself carries over: such a change is refused instead.
#}
{% macro has_earlier_rows() %}
    {% if not execute or should_full_refresh() or load_relation(this) is none %}
        {{ return(false) }}
    {% endif %}
    {% set partition_by = adapter.parse_partition_by(config.get('partition_by')) %}
    {% if
        config.get('materialized') == 'table'
        and not adapter.is_replaceable(load_relation(this), partition_by, config.get('cluster_by'))
    %}
        {% do exceptions.raise_compiler_error(
            this ~ ' reads itself, and its partitioning or clustering has changed: run '
            ~ 'dbt build --full-refresh, which builds it anew from bronze'
        ) %}
    {% endif %}
    {{ return(true) }}
{% endmacro %}
