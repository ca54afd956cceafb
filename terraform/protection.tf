# Protection is a variable and not `lifecycle { prevent_destroy }`, which takes no variable: dev may
# be torn down with one command, staging and prod may not. It also stops a replacement, which
# Terraform plans when a column is renamed or dropped.
locals {
  deletion_policy = var.deletion_protection ? "PREVENT" : "DELETE"
}
