-- sandbox_attacks.lua: scripts of strangers who mean ill, and how each of them has to end. A row is
-- { name, ends, text, limits }. ends: words of "time" (or work), "memory", "error" and "fine", of
-- which one must come true; "fine" also says that what the text asserts held. In front of each text
-- stands `local pf = require "performer"`. limits: in the place of LIMITS; where "time" is no end,
-- there is plenty of it. The rows stand in sandbox_attacks_THEME.lua.
local attacks = { LIMITS = { seconds = 0.1, bytes = 48 << 20 } }

local own = ... -- the name that this file was required by: its themes lie beside it
for _, theme in ipairs { "time", "memory", "engine", "out" } do
  local list = require(own .. "_" .. theme)
  table.move(list, 1, #list, #attacks + 1, attacks)
end

return attacks
