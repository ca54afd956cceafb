{#
    Datasets have exactly the names that Terraform gives them, without the target's prefix. A
    developer's own stand beside them, under DBT_DATASET_PREFIX; bronze stays the one that all read.
#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ env_var('DBT_DATASET_PREFIX', '') | trim }}{{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
