-- index_spec.lua - t[key] and t[key] = value by lists of ranges and positions and by masks, held
-- against nested tables; creation of whole numbers, orders and matrices; what the ops of
-- support/index_cases.lua promise beside their formulas.
local pf = require "performer"

local child = require "spec.support.child"

local function ids(list) return pf.tensor(list, { dtype = "i32" }) end

local function fails(f, ...)
  local fine, message = pcall(f)
  assert.is_false(fine)
  for _, text in ipairs { ... } do
    assert.is_truthy(message:find(text, 1, true), message .. "\n   lacks: " .. text)
  end
end

describe("t[{...}]", function()
  local t = pf.arange(24):reshape(2, 3, 4)

  it("takes ranges with their last, positions without their dimension, and {} for all", function()
    assert.same({ { 4, 5 }, { 8, 9 } }, t[{ 1, { 2, 3 }, { 1, 2 } }]:totable())
    assert.same({ 3, 7, 11 }, t[{ 1, {}, -1 }]:totable())
    assert.same({ { 20, 21, 22, 23 } }, t[{ { 2, 2 }, 3 }]:totable())
    assert.same({ { 3 }, { 15 } }, t[{ {}, 1, { -1, -1 } }]:totable())
    assert.equal(23, t[{ -1, -1, -1 }]:item())
    assert.same({ 2, 0, 4 }, t[{ {}, { 2, 1 } }]:shape())
    assert.same(t:totable(), t[{}]:totable())
    assert.same({ 5, 17 }, t:transpose(1, 3)[{ 2, 2 }]:totable())
  end)

  it("is a view, with the gradient of its place", function()
    local x = pf.zeros(3, 4)
    x[{ 2, { 2, 3 } }]:fill_(7)
    assert.same({ 0, 7, 7, 0 }, x[2]:totable())
    x:requires_grad()
    do
      local tape <close> = pf.tape()
      tape:backward((x[{ { 1, 2 }, -1 }] * pf.tensor { 2, 3 }):sum())
    end
    assert.same({ { 0, 0, 0, 2 }, { 0, 0, 0, 3 }, { 0, 0, 0, 0 } }, x:grad():totable())
  end)

  it("says what is wrong with a key", function()
    fails(function() return t[{ 1, 4 }] end, "position 4", "dimension 2 has 3")
    fails(function() return t[{ 0 }] end, "position 0", "from 1")
    fails(function() return t[{ {}, {}, { 2, 5 } }] end, "2 to 5", "dimension 3 has 4")
    fails(function() return t[{ { 1, 2, 3 } }] end, "{first, last}", "dimension 1")
    fails(function() return t[{ 1, 1, 1, 1 }] end, "4 entries", "3 dimensions")
    fails(function() return t[{ "a" }] end, "a position")
    fails(function() return t[true] end, "indexed by", "boolean")
    fails(function() return pf.tensor(1)[1] end, "scalar")
  end)
end)

describe("t[{...}] = value", function()
  it("writes numbers, and tensors that are stretched", function()
    local t = pf.zeros(3, 4)
    t[{ { 1, 2 }, -1 }] = 9
    t[{ {}, 1 }] = pf.tensor { 7, 8, 9 }
    t[{ { 3, 3 }, { 2, 3 } }] = pf.tensor { { 1, 2 } }
    assert.same({ { 7, 0, 0, 9 }, { 8, 0, 0, 9 }, { 9, 1, 2, 0 } }, t:totable())
    t[{}] = 1
    t[2] = 5
    assert.same({ { 1, 1, 1, 1 }, { 5, 5, 5, 5 }, { 1, 1, 1, 1 } }, t:totable())
    t[{ { 1, 0 } }] = 3 -- nothing
    local view = t:transpose()
    view[{ 1, {} }] = ids { 4, 5, 6 }
    assert.same({ 4, 1, 1, 1 }, t[1]:totable())
    -- Numbers of its own, before they are written over.
    local u = pf.arange(4)
    u[{ { 2, 4 } }] = u[{ { 1, 3 } }]
    assert.same({ 0, 0, 1, 2 }, u:totable())
  end)

  it("changes nothing where it fails", function()
    local t = pf.zeros(2, 3)
    local whole = ids { { 1, 2 }, { 3, 4 } }
    fails(function() t[{ 1, { 1, 4 } }] = 1 end, "dimension 2 has 3")
    fails(function() t[{ 1 }] = pf.ones(2) end, "[2]", "[3]")
    fails(function() t[{ 1 }] = pf.ones(1, 3) end, "[1, 3]")
    fails(function() t[{ 1 }] = "x" end, "number or a tensor")
    fails(function() t[{ row = 1 }] = 5 end, "'row'", "without names")
    fails(function() t[{ { first = 1, last = 1 } }] = 5 end, "without names")
    fails(function() t[{ [2] = 1 }] = 5 end, "one another")
    fails(function() return t[{ 1, { 1, 2, last = 2 } }] end, "'last'")
    fails(function() whole[{ 1 }] = 0.5 end, "0.5", "i32")
    fails(function() whole[{ 1 }] = pf.tensor { 1, 2.5 } end, "2.5", "i32")
    fails(function() pf.ones(3, 1):expand(3, 2)[{ 1 }] = 1 end, "several places")
    assert.same({ { 0, 0, 0 }, { 0, 0, 0 } }, t:totable())
    assert.same({ { 1, 2 }, { 3, 4 } }, whole:totable())
  end)

  it("is a change that backward sees", function()
    local w = pf.ones(3):requires_grad()
    fails(function()
      local _ <close> = pf.tape()
      w[{ 1 }] = 2
    end, "requires a gradient")
    local x = pf.ones(3)
    fails(function()
      local tape <close> = pf.tape()
      local y = (w * x):sum()
      x[{ { 1, 2 } }] = 2
      tape:backward(y)
    end, "changed in place", "an assignment")
    fails(function()
      local tape <close> = pf.tape()
      local y = (w * x):sum()
      x[ids { 1, 0, 0 }] = 2
      tape:backward(y)
    end, "changed in place")
  end)
end)

describe("t[mask]", function()
  local mask = ids { { 1, 0, 0 }, { 0, 1, 1 } }

  it("keeps elements, or rows, and writes them", function()
    local t = pf.arange(6):reshape(2, 3)
    assert.same({ 0, 4, 5 }, t[mask]:totable())
    assert.same({ { 3, 4, 5 } }, t[ids { 0, 1 }]:totable())
    t[mask] = -1
    assert.same({ { -1, 1, 2 }, { 3, -1, -1 } }, t:totable())
    t[mask] = pf.tensor { 7, 8, 9 }
    assert.same({ { 7, 1, 2 }, { 3, 8, 9 } }, t:totable())
    t[ids { 1, 1 }] = pf.tensor { 1, 2, 3 }
    assert.same({ { 1, 2, 3 }, { 1, 2, 3 } }, t:totable())
    local turned = pf.zeros(3, 2):transpose()
    turned[mask] = pf.tensor { 1, 2, 3 }
    turned[ids { 0, 1 }] = turned[ids { 0, 1 }] * 2
    assert.same({ { 1, 0, 0 }, { 0, 4, 6 } }, turned:totable())
    local own = ids { { 1, 0 }, { 1, 0 } } -- a mask that lies where it writes is read before
    own[own:transpose()] = 7
    assert.same({ { 7, 7 }, { 1, 0 } }, own:totable())
  end)

  it("is read before it is written over", function()
    local t = ids { 1, 0, 0, 0, 1, 0 }
    t[{ { 2, 6 } }][t[{ { 1, 5 } }]] = ids { 7, 8 }
    assert.same({ 1, 7, 0, 0, 1, 8 }, t:totable())
    local square = ids { { 0, 1, 1 }, { 0, 0, 0 }, { 0, 1, 0 } }
    square[square:transpose()] = 5
    assert.same({ { 0, 1, 1 }, { 5, 0, 5 }, { 5, 1, 0 } }, square:totable())
    square = ids { { 1, 0 }, { 0, 1 } }
    square[square] = ids { 3, 4 }
    assert.same({ { 3, 0 }, { 0, 4 } }, square:totable())
    local t2 = pf.zeros(2, 3)
    t2[ids { 1 }:expand(2)] = pf.arange(6):reshape(2, 3)
    assert.same({ { 0, 1, 2 }, { 3, 4, 5 } }, t2:totable())
  end)

  it("is of 1 and 0 alone: positions have an op of their own", function()
    local t = pf.zeros(3)
    fails(function() return t[ids { 3, 1, 1 }] end, "1 and 0", "is 3")
    fails(function() t[ids { 3, 1, 1 }] = 1 end, "1 and 0", "is 3")
    fails(function() return t[ids { 1, 0 }] end, "mask is [2]")
    fails(function() t[ids { 1, 0 }] = 1 end, "mask [2]", "[3]")
    fails(function() return t[pf.ones(3)] end, "i32")
    fails(function() t[ids { 1, 1, 0 }] = pf.ones(3) end, "[3]", "[2]")
    assert.same({ 0, 0, 0 }, t:totable())
  end)
end)

-- ---- creation --------------------------------------------------------------------------

describe("creation", function()
  it("randint has all from low to high, and is pf.seed's", function()
    pf.seed(3)
    local t = pf.randint(-2, 3, 60, 100)
    assert.equal("i32", t:dtype())
    local count = {}
    for _, row in ipairs(t:totable()) do
      for _, n in ipairs(row) do count[n] = (count[n] or 0) + 1 end
    end
    local sum = 0
    for n = -2, 3 do
      assert.is_true(math.abs(count[n] - 1000) < 5 * math.sqrt(1000), n)
      sum = sum + count[n]
    end
    assert.equal(6000, sum)
    pf.seed(3)
    assert.equal(t:tobytes(), pf.randint(-2, 3, { 60, 100 }):tobytes())
    assert.not_equal(t:tobytes(), pf.randint(-2, 3, { 60, 100 }):tobytes())
    assert.same({ 4, 4 }, pf.randint(4, 4, 2):totable())
    assert.same({}, pf.randint(1, 2):shape())
    fails(function() return pf.randint(3, 2, 5) end, "3", "2")
    fails(function() return pf.randint(0, 1 << 31, 5) end, "2147483648")
    fails(function() return pf.randint(0, 1, 5, {}) end, "too many")
  end)

  it("randperm is each position once, in orders of one chance", function()
    pf.seed(4)
    local first = pf.randperm(50)
    local seen = first:totable()
    table.sort(seen)
    for i = 1, 50 do assert.equal(i, seen[i]) end
    pf.seed(4)
    assert.equal(first:tobytes(), pf.randperm(50):tobytes())
    local count = {}
    for _ = 1, 1200 do
      local order = table.concat(pf.randperm(3):totable())
      count[order] = (count[order] or 0) + 1
    end
    local kinds = 0
    for _, n in pairs(count) do
      kinds = kinds + 1
      assert.is_true(math.abs(n - 200) < 5 * math.sqrt(200))
    end
    assert.equal(6, kinds)
    local t = pf.randn(5, 2)
    local mixed = t:index_select(1, pf.randperm(5))
    assert.same({ 5, 2 }, mixed:shape())
    assert.equal(t:sort(1):tobytes(), mixed:sort(1):tobytes())
    assert.same({ 0 }, pf.randperm(0):shape())
    fails(function() return pf.randperm(-1) end, "-1")
  end)

  it("makes room among what nobody holds any more", function()
    assert.equal("made\n", child.run([[
      local n = 1000000
      local mask, file = pf.zeros(n):eq(0), "memory:numbers"
      pf.npy.save(file, mask)
      for _, make in ipairs {
        function() pf.randperm(n) end, function() pf.eye(1000) end,
        function() pf.linspace(0, 1, n) end, function() pf.arange(n) end,
        function() pf.zeros(n)[mask] = 1 end, function() pf.npy.load(file) end,
      } do
        for _ = 1, 20 do make() end
      end
      print "made"]], "{ memory = '64M' }"))
  end)

  it("eye and linspace", function()
    assert.same({ { 1, 0 }, { 0, 1 } }, pf.eye(2):totable())
    assert.same({ { 1, 0, 0 }, { 0, 1, 0 } }, pf.eye(2, 3, { dtype = "i32" }):totable())
    assert.same({ 0, 3 }, pf.eye(0, 3):shape())
    assert.same({ -1, -0.5, 0, 0.5, 1 }, pf.linspace(-1, 1, 5):totable())
    assert.same({ 3 }, pf.linspace(3, 9, 1):totable())
    assert.same({ 0 }, pf.linspace(3, 9, 0):shape())
    assert.same({ 5, 5, 5 }, pf.linspace(5, 5, 3):totable())
    local many = pf.linspace(0, 0.1, 12345)
    assert.equal(pf.tensor(0.1):item(), many[-1]:item())
    fails(function() return pf.eye(-1) end, "negative")
    fails(function() return pf.linspace(0, 1 / 0, 3) end, "inf")
    fails(function() return pf.linspace(0, 1, -3) end, "-3")
  end)
end)

-- ---- what formulas don't say -----------------------------------------------------------

describe("ops by position", function()
  it("sort's values go back by their positions, whoever changes what was given out", function()
    local x = pf.tensor { { 3, 1, 2 } }:requires_grad()
    do
      local tape <close> = pf.tape()
      local values, positions = x:sort()
      positions:fill_(1)
      tape:backward((values * pf.tensor { { 10, 20, 30 } }):sum())
    end
    assert.same({ { 30, 10, 20 } }, x:grad():totable())
  end)

  it("gather undoes what argsort says, and positions go back in", function()
    local x = pf.randn(7, 9)
    local sorted, places = x:sort(1, true)
    assert.equal(sorted:tobytes(), x:gather(1, places):tobytes())
    local top, at = x:topk(3, 2)
    assert.equal(top:tobytes(), x:gather(2, at):tobytes())
    assert.same(x:argmax(2):totable(), at[{ {}, 1 }]:totable())
  end)

  it("add what meets in one place in its order", function()
    local big, small = 2 ^ 24, 1
    local source = pf.tensor { big, small, small, -big }
    assert.same({ 0 }, pf.zeros(1):scatter_add(1, ids { 1, 1, 1, 1 }, source):totable())
    local other = pf.tensor { big, -big, small, small }
    assert.same({ 2 }, pf.zeros(1):scatter_add(1, ids { 1, 1, 1, 1 }, other):totable())
  end)

  it("stack takes more tensors than one call does", function()
    local list, want = {}, {}
    for i = 1, 40 do list[i], want[i] = pf.full({ 2 }, i), { i, i } end
    assert.same(want, pf.stack(list):totable())
    assert.same({ 2, 40 }, pf.stack(list, 2):shape())
    assert.same({ 2, 40 }, pf.stack(list, { dim = -1 }):shape())
    fails(function() return pf.stack {} end, "empty")
    fails(function() return pf.stack(3) end, "list")
  end)

  it("views share their numbers; what expand repeats is only read", function()
    local x = pf.zeros(2, 1)
    x:squeeze()[1] = 5
    x:unsqueeze(1)[{ 1, 2 }] = 6
    assert.same({ { 5 }, { 6 } }, x:totable())
    local wide = x:expand(2, 3)
    fails(function() wide:fill_(1) end, "several places", "detach")
    assert.same({ { 5, 5, 5 }, { 6, 6, 6 } }, (wide:detach()):totable())
    assert.same({ { 10, 10, 10 }, { 12, 12, 12 } }, (wide + wide):totable())
  end)
end)
