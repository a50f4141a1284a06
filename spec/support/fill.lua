-- fill.lua - inputs for the cases of ops: arrays from one stream of random numbers, and from
-- given ones.
local array = require "spec.support.array"

local random = array.random(20240607)
local fill = {}

--- Normal.
function fill.N(...) return random:normals { ... } end

--- Normal, and not near 0.
function fill.AWAY(...) return random:away({ ... }, 0.3) end

--- Between 0.3 and 3.
function fill.POS(...) return random:uniforms({ ... }, 0.3, 3) end

--- Whole numbers below n, i32.
function fill.I(n, ...) return random:whole({ ... }, 0, n - 1) end

--- Different values everywhere, at least 0.1 apart: for maxima.
function fill.APART(...)
  local n = array.numel { ... }
  local order = {}
  for i = 1, n do order[i] = i end
  for i = n, 2, -1 do
    local j = random:below(i) + 1
    order[i], order[j] = order[j], order[i]
  end
  return array.new({ ... }, function(i) return array.round((order[i] - n / 2) / 10) end)
end

--- Multiples of 0.5 from 0 to 4, moved by `shift`.
function fill.HALVES(shift)
  return function(...)
    return array.fill({ ... }, function() return random:below(9) / 2 + shift end)
  end
end

--- The given numbers, i32.
function fill.ROWS(shape, ...)
  local values = { ... }
  return array.new(shape, function(i) return values[i] end, "i32")
end

--- The given numbers, f32.
function fill.F(shape, ...)
  local values = { ... }
  return array.new(shape, function(i) return array.round(values[i]) end)
end

return fill
