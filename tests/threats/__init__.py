"""The threat table, row by row: each test is named after the attack that it tries."""
