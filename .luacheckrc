-- Lua 5.4 throughout; specs know busted's globals.
std = "lua54"
max_line_length = 100
exclude_files = { "build", "runs" }
files["spec"] = { std = "+busted" }
files["examples/09_my_spec.lua"] = { std = "+busted" }
files[".busted"] = { std = "lua54" }
files[".luacheckrc"] = { std = "+luacheckrc" }
