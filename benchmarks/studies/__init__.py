"""Measurements that only maintainers run; not in the wheel."""
