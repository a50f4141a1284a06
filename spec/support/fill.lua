-- fill.lua - inputs for the cases of ops: arrays of random numbers, and from given ones. The
-- numbers of an op's cases come from a stream of the op's own (fill.settle), so that a case more
-- or less of one op is none of another's business.
local array = require "spec.support.array"

local fill = {}
local random = array.random(20240607) -- until they are settled
local again = setmetatable({}, { __mode = "k" }) -- how an array is filled anew

--- make(...), which fill.settle may call again.
local function remembered(make)
  return function(...)
    local arguments, a = table.pack(...), make(...)
    again[a] = function() return make(table.unpack(arguments, 1, arguments.n)) end
    return a
  end
end

--- What `make` makes, its numbers changed by f: fill.CHANGED(fill.N, function(x) return 2 * x end).
function fill.CHANGED(make, f)
  return remembered(function(...)
    local a = make(...)
    for i = 1, #a do a[i] = f(a[i]) end
    return a
  end)
end

--- Normal.
fill.N = remembered(function(...) return random:normals { ... } end)

--- Normal, and not near 0.
fill.AWAY = remembered(function(...) return random:away({ ... }, 0.3) end)

--- Between 0.3 and 3.
fill.POS = remembered(function(...) return random:uniforms({ ... }, 0.3, 3) end)

--- Whole numbers below n, i32.
fill.I = remembered(function(n, ...) return random:whole({ ... }, 0, n - 1) end)

--- Different values everywhere, at least 0.1 apart: for maxima.
fill.APART = remembered(function(...)
  local n = array.numel { ... }
  local order = {}
  for i = 1, n do order[i] = i end
  for i = n, 2, -1 do
    local j = random:below(i) + 1
    order[i], order[j] = order[j], order[i]
  end
  return array.new({ ... }, function(i) return array.round((order[i] - n / 2) / 10) end)
end)

--- Multiples of 0.5 from 0 to 4, moved by `shift`.
function fill.HALVES(shift)
  return remembered(function(...)
    return array.fill({ ... }, function() return random:below(9) / 2 + shift end)
  end)
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

--- Fills the good cases of op `name` anew, from its own stream.
function fill.settle(name, entry)
  local seed = 13
  for i = 1, #name do seed = (seed * 31 + name:byte(i)) % 2147483647 end
  random = array.random(seed)
  for _, case in ipairs(entry.good) do
    local names, inputs = {}, {}
    for input in pairs(case[1]) do names[#names + 1] = input end
    table.sort(names)
    for _, input in ipairs(names) do
      local given = case[1][input]
      inputs[input] = again[given] and again[given]() or given
    end
    case[1] = inputs
  end
end

return fill
