-- lsh_spec.lua - hashing by direction, and attention in rooms of it: what collides how often, whose
-- choice depends on the past alone, layers, and what of the first run a second one holds.
local pf = require "performer"
require "spec.support"

--- How many of n rounds, from 0, put x and y (both {d}) in one bucket of b.
local function collisions(x, y, b, n)
  pf.seed(11)
  local d = #x
  local rows = pf.tensor { x, y }:reshape(1, 1, 2, d)
  local both = pf.lsh_buckets(rows, pf.randn(1, n, d, b // 2)):totable()[1][1]
  local same = 0
  for t = 1, n do same = same + (both[t][1] == both[t][2] and 1 or 0) end
  return same
end

describe("lsh_buckets", function()
  it("puts two rows at an angle a in one of 2 buckets with P = 1 - a / pi", function()
    local n = 20000
    for _, angle in ipairs { 0.1, 0.7, math.pi / 2, 2.5 } do
      local p = 1 - angle / math.pi
      local got = collisions({ 3, 0, 0 }, { math.cos(angle), math.sin(angle), 0 }, 2, n) / n
      assert.near(p, got, 4 * math.sqrt(p * (1 - p) / n))
    end
  end)

  it("tells near from far with many buckets", function()
    local function share(angle)
      return collisions({ 1, 0, 0, 0 }, { math.cos(angle), math.sin(angle), 0, 0 }, 64, 4000) / 4000
    end
    local near, far = share(0.3), share(2)
    assert.is_true(near > 0.5 and far < 0.02, near .. ", " .. far)
  end)
end)
