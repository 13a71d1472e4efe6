"""The built-in plugins of pgzoo, one short file each. They import only names that pgzoo exports."""
