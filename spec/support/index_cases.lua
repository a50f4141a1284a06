-- index_cases.lua - cases (see cases.lua) of the ops that pick, order and repeat elements.
local array = require "spec.support.array"
local fill = require "spec.support.fill"

local N, I, APART, ROWS, F = fill.N, fill.I, fill.APART, fill.ROWS, fill.F
local SLOPES, NAN, INF = "slopes", 0 / 0, math.huge

local cases = {}

-- ---- order -----------------------------------------------------------------------------

local function ordered(more)
  local good = {
    { { x = APART(2, 5) } }, { { x = APART(3, 4, 2) }, { dim = 2 } }, { { x = APART(7) } },
    { { x = APART(4, 3) }, { dim = 1, descending = true } }, { { x = N(2, 0) } },
    { { x = N(0, 3) } }, { { x = N(1) } }, { { x = I(4, 3, 9) } },
    { { x = I(4, 3, 9) }, { descending = true } },
    { { x = I(60, 2, 150) }, { descending = true } },
    { { x = ROWS({ 4 }, -2147483648, 2147483647, 0, -1) } },
    { { x = F({ 9 }, 2, NAN, -INF, 0, -0.0, INF, 2, NAN, -1) }, grad = false },
    { { x = F({ 9 }, 2, NAN, -INF, 0, -0.0, INF, 2, NAN, -1) }, { descending = true },
      grad = false },
    { { x = APART(3, 130) }, grad = SLOPES },
  }
  for _, case in ipairs(more or {}) do good[#good + 1] = case end
  return good
end

local no_dim = { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" }
cases.sort = { good = ordered(), bad = { no_dim, { { x = N() }, {}, "scalar" } } }
cases.argsort = { good = ordered(), bad = { no_dim } }
cases.topk = {
  good = {
    { { x = APART(2, 5) }, { k = 2 } }, { { x = APART(2, 5) }, { k = 5 } },
    { { x = APART(4, 3) }, { k = 3, dim = 1, largest = false } }, { { x = N(2, 3) }, { k = 0 } },
    { { x = N(0, 3) }, { k = 1 } }, { { x = N(2, 0) }, { k = 0 } },
    { { x = I(3, 2, 9) }, { k = 4 } }, { { x = I(3, 2, 9) }, { k = 4, largest = false } },
    { { x = I(2, 300) }, { k = 200 } },
    { { x = F({ 7 }, 1, NAN, 3, 3, -INF, NAN, 3) }, { k = 4 }, grad = false },
    { { x = F({ 7 }, 1, NAN, 3, 3, -INF, NAN, 3) }, { k = 6, largest = false }, grad = false },
    { { x = APART(3, 130) }, { k = 70 }, grad = SLOPES },
  },
  bad = { { { x = N(2, 3) }, { k = 4 }, "x is [2, 3]", "k is 4", "dimension 2 has 3" },
          { { x = N(2, 3) }, { k = -1 }, "k is -1" }, { { x = N(2, 3) }, {}, "k is missing" } },
}

-- ---- by position -----------------------------------------------------------------------

--- Positions among n, from either end, with repetitions.
local function AT(n, shape, ...)
  local values = { ... }
  if #values == 0 then
    for i = 1, array.numel(shape) do
      local at = (i * 7 + i * i // 3) % n + 1
      values[i] = i % 4 == 0 and at - n - 1 or at
    end
  end
  return ROWS(shape, table.unpack(values))
end

cases.gather = {
  good = {
    { { x = N(3, 4), index = AT(4, { 3, 2 }) }, { dim = 2 } },
    { { x = N(3, 4), index = AT(3, { 5, 4 }) }, { dim = 1 } },
    { { x = N(5), index = AT(5, { 8 }) }, { dim = -1 } },
    { { x = N(2, 3, 4), index = AT(3, { 2, 2, 4 }) }, { dim = 2 } },
    { { x = N(2, 3), index = AT(3, { 2, 0 }) }, { dim = 2 } },
    { { x = N(0, 3), index = AT(3, { 0, 2 }) }, { dim = 2 } },
    { { x = I(9, 2, 3), index = AT(3, { 2, 4 }) }, { dim = 2 } },
    { { x = N(3, 70), index = AT(3, { 5, 70 }) }, { dim = 1 }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), index = AT(3, { 3, 3 }) }, { dim = 2 }, "x is [2, 3]", "index is [3, 3]",
      "dimensions but 2" },
    { { x = N(2, 3), index = AT(3, { 2 }) }, { dim = 2 }, "index is [2]" },
    { { x = N(2, 3), index = ROWS({ 2, 2 }, 1, 3, 4, 1) }, { dim = 2 }, "no position 4",
      "dimension of 3", "element 3 of index [2, 2]" },
    { { x = N(2, 3), index = ROWS({ 2, 2 }, 1, 3, 1, -4) }, { dim = 2 }, "no position -4",
      "element 4" },
    { { x = N(2, 3), index = ROWS({ 2, 1 }, 1, 0) }, { dim = 2 }, "element 2", "0", "from 1" },
    { { x = N(2, 3), index = N(2, 3) }, { dim = 2 }, "index", "f32", "i32" },
    { { x = N(2, 3), index = AT(3, { 2, 3 }) }, {}, "dim is missing" },
  },
}
cases.index_select = {
  good = {
    { { x = N(3, 4), index = AT(3, { 5 }) }, { dim = 1 } },
    { { x = N(3, 4), index = AT(4, { 2 }) }, { dim = -1 } },
    { { x = N(2, 3, 4), index = AT(3, { 4 }) }, { dim = 2 } },
    { { x = N(3, 4), index = AT(3, { 0 }) }, { dim = 1 } },
    { { x = N(3, 0), index = AT(3, { 2 }) }, { dim = 1 } },
    { { x = N(4), index = AT(4, { 9 }) }, { dim = 1 } },
    { { x = I(9, 2, 3), index = AT(3, { 4 }) }, { dim = 2 } },
    { { x = N(5, 150), index = AT(5, { 9 }) }, { dim = 1 }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), index = AT(3, { 1, 3 }) }, { dim = 2 }, "index is [1, 3]", "(n)" },
    { { x = N(2, 3), index = ROWS({ 2 }, 1, 3) }, { dim = 1 }, "no position 3",
      "dimension of 2", "element 2 of index [2]" },
    { { x = N(2, 0), index = ROWS({ 1 }, 1) }, { dim = 2 }, "no position 1", "dimension of 0" },
    { { x = N(2, 3), index = AT(3, { 2 }) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" },
  },
}
cases.scatter_add = {
  good = {
    { { x = N(3, 4), index = AT(4, { 3, 6 }), source = N(3, 6) }, { dim = 2 } },
    { { x = N(3, 4), index = AT(3, { 5, 4 }), source = N(5, 4) }, { dim = 1 } },
    { { x = N(3, 4), index = AT(3, { 7 }), source = N(7, 4) }, { dim = 1 } },
    { { x = N(2, 3, 4), index = AT(3, { 5 }), source = N(2, 5, 4) }, { dim = -2 } },
    { { x = N(4), index = AT(4, { 9 }), source = N(9) }, { dim = 1 } },
    { { x = N(4), index = AT(4, { 0 }), source = N(0) }, { dim = 1 } },
    { { x = N(0, 2), index = AT(2, { 0, 3 }), source = N(0, 3) }, { dim = 2 } },
    { { x = I(9, 3), index = AT(3, { 5 }), source = I(9, 5) }, { dim = 1 } },
    { { x = ROWS({ 2 }, 2147483647, 1), index = ROWS({ 2 }, 1, 1), source = ROWS({ 2 }, 5, 1) },
      { dim = 1 } },
    { { x = N(5, 150), index = AT(5, { 9 }), source = N(9, 150) }, { dim = 1 }, grad = SLOPES },
    { { x = N(5, 150), index = AT(5, { 9, 150 }), source = N(9, 150) }, { dim = 1 },
      grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), index = AT(3, { 2, 3 }), source = N(3, 3) }, { dim = 2 }, "x is [2, 3]",
      "source is [3, 3]", "dimensions but 2" },
    { { x = N(2, 3), index = AT(3, { 4 }), source = N(2, 3) }, { dim = 2 }, "index is [4]",
      "or (3)" },
    { { x = N(2), index = ROWS({ 2 }, 1, 3), source = N(2) }, { dim = 1 }, "no position 3",
      "element 2" },
    { { x = N(2), index = AT(2, { 2 }), source = I(3, 2) }, { dim = 1 }, "source", "i32", "f32" },
  },
}
cases.masked_select = {
  good = {
    { { x = N(2, 3), mask = ROWS({ 2, 3 }, 1, 0, 1, 0, 0, 1) } },
    { { x = N(3, 2), mask = ROWS({ 3 }, 0, 1, 1) } },
    { { x = N(2, 2, 3), mask = ROWS({ 2, 2 }, 1, 0, 0, 1) } },
    { { x = N(3, 2), mask = ROWS({ 3 }, 0, 0, 0) } }, { { x = N(0, 2), mask = ROWS { 0 } } },
    { { x = N(2, 0), mask = ROWS({ 2 }, 1, 0) } },
    { { x = I(9, 4), mask = ROWS({ 4 }, 1, 1, 0, 1) } },
    { { x = N(300, 3), mask = I(2, 300) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), mask = I(2, 3) }, {}, "x is [2, 3]", "mask is [3]", "first sizes" },
    { { x = N(2), mask = I(2, 2, 3) }, {}, "mask is [2, 3]" },
    { { x = N(3), mask = ROWS({ 3 }, 1, 0, 2) }, {}, "1 and 0", "element 3", "is 2" },
    { { x = N(2), mask = N(2) }, {}, "mask", "f32", "i32" },
  },
}
cases.flip = {
  good = {
    { { x = N(3, 4) }, { dim = 1 } }, { { x = N(3, 4) }, { dim = -1 } },
    { { x = N(5) }, { dim = 1 } },
    { { x = N(2, 0) }, { dim = 2 } }, { { x = I(9, 2, 3, 2) }, { dim = 2 } },
  },
  bad = { { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" },
          { { x = N(2) }, {}, "dim is missing" } },
}

-- ---- dimensions ------------------------------------------------------------------------

cases.unsqueeze = {
  good = {
    { { x = N(2, 3) }, { dim = 1 } }, { { x = N(2, 3) }, { dim = 3 } },
    { { x = N(2, 3) }, { dim = -1 } }, { { x = N(2, 3) }, { dim = -3 } },
    { { x = N() }, { dim = 1 } }, { { x = N(0) }, { dim = 2 } }, { { x = I(9, 2) }, { dim = -2 } },
  },
  bad = { { { x = N(2, 3) }, { dim = 4 }, "x is [2, 3]", "1 to 3", "-3 to -1", "not at 4" },
          { { x = N(2, 3) }, { dim = -4 }, "not at -4" }, { { x = N(2) }, { dim = 0 }, "from 1" },
          { { x = N(1, 1, 1, 1, 1, 1, 1, 1) }, { dim = 1 }, "9" } },
}
cases.squeeze = {
  good = {
    { { x = N(2, 1, 3, 1) } }, { { x = N(2, 1, 3, 1) }, { dims = { 2 } } },
    { { x = N(2, 1, 3, 1) }, { dims = { -1, 2 } } }, { { x = N(1, 1) } }, { { x = N(2, 3) } },
    { { x = N() } }, { { x = N(1, 0) } }, { { x = I(9, 1, 2) }, { dims = { 1 } } },
  },
  bad = { { { x = N(2, 1) }, { dims = { 1 } }, "x is [2, 1]", "dimension 1 has 2" },
          { { x = N(2, 1) }, { dims = { 3 } }, "dims is 3", "1 to 2" } },
}
cases.expand = {
  good = {
    { { x = N(2, 1) }, { shape = { 2, 3 } } }, { { x = N(2, 1) }, { shape = { -1, 4 } } },
    { { x = N(3) }, { shape = { 2, 2, 3 } } }, { { x = N(1, 3, 1) }, { shape = { 4, 2, 3, 2 } } },
    { { x = N() }, { shape = { 2, 2 } } }, { { x = N(2, 3) }, { shape = { 2, 3 } } },
    { { x = N(1, 3) }, { shape = { 0, 3 } } }, { { x = I(9, 2, 1) }, { shape = { 2, 5 } } },
    { { x = N(67, 1) }, { shape = { 3, 67, 9 } }, grad = SLOPES },
  },
  bad = { { { x = N(2, 3) }, { shape = { 2, 4 } }, "x is [2, 3]", "3 does not stretch to 4" },
          { { x = N(2, 3) }, { shape = { 3 } }, "x is [2, 3]", "fewer dimensions" },
          { { x = N(3) }, { shape = { -1, 3 } }, "at least 0" },
          { { x = N(2, 1) }, { shape = { 2, -2 } }, "at least 0" } },
}
local function side_by_side(dim, ...) return { { tensors = { ... } }, { dim = dim } } end
cases.stack = {
  good = {
    side_by_side(1, N(2, 3), N(2, 3)), side_by_side(2, N(2, 3), N(2, 3), N(2, 3)),
    side_by_side(-1, N(2), N(2)), side_by_side(1, N(), N()), side_by_side(1, N(0, 2), N(0, 2)),
    side_by_side(3, I(9, 2, 2), I(9, 2, 2)), side_by_side(1, N(4)),
  },
  bad = {
    { { tensors = { N(2, 3), N(2, 4) } }, {}, "[2, 3]", "[2, 4]", "tensors[2]" },
    { { tensors = { N(2), I(3, 2) } }, {}, "f32", "i32" },
    { { tensors = { N(2), N(2) } }, { dim = 3 }, "1 to 2", "not at 3" },
  },
}
cases.tile = {
  good = {
    { { x = N(2, 3) }, { counts = { 2, 1 } } }, { { x = N(2, 3) }, { counts = { 2 } } },
    { { x = N(3) }, { counts = { 2, 3 } } }, { { x = N(1, 3) }, { counts = { 4, 2 } } },
    { { x = N() }, { counts = { 3 } } }, { { x = N(2, 3) }, { counts = { 0, 2 } } },
    { { x = N(0, 3) }, { counts = { 2, 2 } } }, { { x = I(9, 2, 1) }, { counts = { 2, 3 } } },
    { { x = N(2, 3) }, { counts = {} } },
    { { x = N(5, 1, 67) }, { counts = { 2, 3, 4 } }, grad = SLOPES },
  },
  bad = { { { x = N(2, 3) }, { counts = { -1, 2 } }, "x is [2, 3]", "-1" },
          { { x = N(2, 3) }, { counts = { 1 << 62, 4 } }, "x is [2, 3]", "large" } },
}

-- ---- triangles, one hot ------------------------------------------------------------------

local function triangles()
  return {
    good = {
      { { x = N(3, 4) } }, { { x = N(4, 3) }, { diagonal = 1 } },
      { { x = N(2, 3, 3) }, { diagonal = -1 } }, { { x = N(3, 3) }, { diagonal = 9 } },
      { { x = N(3, 3) }, { diagonal = -9 } }, { { x = N(0, 3) } }, { { x = N(3, 0) } },
      { { x = I(9, 3, 3) }, { diagonal = math.maxinteger } },
      { { x = I(9, 3, 3) }, { diagonal = math.mininteger } },
      { { x = F({ 2, 2 }, NAN, NAN, NAN, NAN) }, grad = false },
      { { x = N(150, 130) }, { diagonal = 3 }, grad = SLOPES },
    },
    bad = { { { x = N(3) }, {}, "x is [3]", "two dimensions" } },
  }
end
cases.tril, cases.triu = triangles(), triangles()
cases.one_hot = {
  good = {
    { { ids = I(5, 2, 3) }, { n = 5 } }, { { ids = I(5) }, { n = 6 } },
    { { ids = ROWS { 0 } }, { n = 3 } }, { { ids = ROWS { 0 } }, { n = 0 } },
  },
  bad = {
    { { ids = ROWS({ 3 }, 0, 4, 1) }, { n = 4 }, "id 4 at position 2", "ids [3]", "n = 4" },
    { { ids = ROWS({ 2 }, 0, -1) }, { n = 4 }, "id -1" }, { { ids = N(2) }, { n = 4 }, "f32" },
    { { ids = I(3, 2) }, { n = -1 }, "ids is [2]", "-1" },
    { { ids = I(3, 2) }, {}, "n is missing" },
  },
}

return cases
