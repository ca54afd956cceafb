{#
    Refuses to go on where the table `input` was built anew after this model: by the number of its
    rows a day this model cannot tell what it has read of the old one from what stands there now.
#}
{% macro refuse_input_built_anew(input) %}
    {% if has_earlier_rows() %}
        {% set table = adapter.get_bq_table(input) %}
        {% if table and table.created > adapter.get_bq_table(this).created %}
            {% do exceptions.raise_compiler_error(
                input ~ ' was built anew, and ' ~ this ~ ', which is made of it, was not: run '
                ~ 'dbt build --full-refresh'
            ) %}
        {% endif %}
    {% endif %}
{% endmacro %}
