"""From a name to local files: `paths.resolve` finds or downloads them, `source.Source` says where they are.

Nothing is imported here: completing a name in a shell needs `names` alone.
"""
