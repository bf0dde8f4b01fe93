"""The command lines of `esvit-train`, `esvit-eval` and `esvit-bench`, parsed before heavy imports."""
