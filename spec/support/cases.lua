-- cases.lua - what ops_spec runs for every op: `good` inputs that are held against the
-- oracle, in every memory layout and for their gradients, and `bad` ones with what the error
-- has to say. An op without an entry here fails the spec.
--
-- A good case is { inputs by name, attributes, ... } with the fields
--   relative, absolute   closeness (default 1e-6 of the element, 5e-7 of the largest)
--   grad = false         no gradient check (not smooth there, not finite)
--   grad = "slopes"      too large for one element by element: slopes along some directions alone
--   fixed = {name = true}  inputs without a gradient;  compact = {...}  that take no strides
-- Where the gradient is 0 everywhere the entry says `flat = true`: no direction has a slope that
-- pf.check.gradient could judge.
-- A bad case is { inputs, attributes, text, text ... }: parts of the message beside the op's
-- name. Every entry has one about shapes or dimensions, or says `shapeless = true`.
local fill = require "spec.support.fill"

local N, AWAY, POS, I, APART = fill.N, fill.AWAY, fill.POS, fill.I, fill.APART
local ROWS, F = fill.ROWS, fill.F
local cases = {}

local NAN, INF = 0 / 0, math.huge
local SLOPES = "slopes"

-- ---- elementwise -----------------------------------------------------------------------

--- Pairs of shapes that broadcast, filled by a and b.
local function pairs_of(a, b)
  return {
    { { a = a(2, 3, 4), b = b(2, 3, 4) } }, { { a = a(2, 3, 4), b = b(4) } },
    { { a = a(2, 1, 4), b = b(3, 1) } }, { { a = a(), b = b(2, 3) } },
    { { a = a(2, 3), b = b() } }, { { a = a(1), b = b(1, 1) } }, { { a = a(0, 3), b = b(3) } },
    { { a = a(5, 1, 7), b = b(5, 3, 1) } }, { { a = a(3, 67), b = b(67) }, grad = SLOPES },
    { { a = a(67, 3), b = b(67, 1) }, grad = SLOPES },
  }
end

local function binary_bad()
  return {
    { { a = N(2, 3), b = N(2, 4) }, {}, "a is [2, 3]", "b is [2, 4]", "dimension -1" },
    { { a = N(2), b = I(3, 2) }, {}, "f32", "i32" },
  }
end

local function whole_pairs(more)
  local good = pairs_of(N, N)
  good[#good + 1] = { { a = I(50, 2, 3), b = I(50, 3) }, grad = false }
  good[#good + 1] = { { a = ROWS({ 3 }, 2147483647, -2147483648, 5),
                        b = ROWS({ 3 }, 1, -1, -7) }, grad = false }
  for _, case in ipairs(more or {}) do good[#good + 1] = case end
  return good
end

cases.add = { good = whole_pairs(), bad = binary_bad() }
cases.sub = { good = whole_pairs(), bad = binary_bad() }
cases.mul = { good = whole_pairs(), bad = binary_bad() }
cases.div = { good = pairs_of(N, AWAY), bad = binary_bad() }
cases.pow = { good = pairs_of(POS, N), bad = binary_bad() }

do
  -- Never closer than the steps of a gradient check.
  local good = pairs_of(fill.HALVES(0), fill.HALVES(0.25))
  good[#good + 1] = { { a = F({ 3 }, NAN, 1, INF), b = F({ 3 }, 1, NAN, 2) }, grad = false }
  good[#good + 1] = { { a = I(9, 7), b = I(9, 7) }, grad = false }
  cases.maximum = { good = good, bad = binary_bad() }
end

cases.div.good[#cases.div.good + 1] =
  { { a = F({ 3 }, 1, -1, 0), b = F({ 3 }, 0, 0, 0) }, grad = false }
cases.pow.good[#cases.pow.good + 1] =
  { { a = F({ 5 }, -2, -2, 0, 9, -1), b = F({ 5 }, 2, 3, 2, 0.5, 0.5) }, grad = false }

--- Shapes for a function of one tensor; `special` values once more, each close in itself.
local function unary(make, special, absolute)
  local good = {
    { { x = make(2, 3) } }, { { x = make() } }, { { x = make(1, 1) } }, { { x = make(0, 4) } },
    { { x = make(3, 1, 5) } }, { { x = make(5, 67) }, grad = SLOPES },
  }
  if special then
    good[#good + 1] = { { x = F({ #special }, table.unpack(special)) }, grad = false,
                        relative = 2e-6, absolute = absolute or 1e-37 }
  end
  return { good = good, bad = { { { x = I(3, 2, 2) }, {}, "x", "i32", "f32" } }, shapeless = true }
end

cases.neg = unary(N, { 0, INF, -INF, NAN, 1e-30, 1e30 })
cases.exp = unary(N, { 0, -80, 80, 88, 100, -200, INF, -INF, NAN, 1e-20 })
cases.log = unary(POS, { 1, 0, -1, 1e-30, 1e30, INF, NAN })
cases.sqrt = unary(POS, { 0, 1, -1, 1e-30, 1e30, INF, NAN })
cases.square = unary(N, { 0, -3, 1e15, 1e20, INF, -INF, NAN })
cases.tanh = unary(N, { 0, 1e-4, -1e-4, 0.5, 9, -9, 100, -100, INF, -INF, NAN })
cases.sigmoid = unary(N, { 0, 20, -20, 80, -80, 200, INF, -INF, NAN })
cases.relu = unary(AWAY, { 0, -1, 1, INF, -INF, NAN, 1e-30 })
cases.requ = unary(AWAY, { 0, -1, 3, INF, -INF, NAN })
cases.gelu = unary(N, { 0, 1e-4, -1e-4, 8, -3, 30, NAN, INF }, 3e-7)
cases.gelu_tanh = unary(N, { 0, 1e-4, -1e-4, 8, -3, 30, NAN, INF }, 3e-7)
cases.silu = unary(N, { 0, 1e-4, -1e-4, 20, -20, 80, -80, NAN, INF })
cases.elu = unary(AWAY, { 0, 3, -3, -100, 50, INF, -INF, NAN }, 1e-7)
cases.abs = unary(AWAY, { 0, -2, INF, -INF, NAN })
cases.cos = unary(N, { 0, 3.14159, -100, 1000 }, 1e-7)
cases.sin = unary(N, { 0, 3.14159, -100, 1000 }, 1e-7)
cases.affine = {
  good = {
    { { x = N(2, 3) }, { scale = 2.5, shift = -1 } }, { { x = N(4) }, {} },
    { { x = N() }, { scale = 3 } },
    { { x = N(0, 2) }, { shift = 1 } }, { { x = N(3, 67) }, { scale = -0.5, shift = 0.25 } },
  },
  bad = { { { x = I(3, 2) }, {}, "x", "i32", "f32" } }, shapeless = true,
}

-- ---- reductions ------------------------------------------------------------------------

local function reduced(make, empty)
  local good = {
    { { x = make(2, 3, 4) }, {} }, { { x = make(2, 3, 4) }, { dim = 1 } },
    { { x = make(2, 3, 4) }, { dim = 2, keep = true } }, { { x = make(2, 3, 4) }, { dim = -1 } },
    { { x = make(2, 3) }, { keep = true } }, { { x = make(5) }, { dim = 1 } },
    { { x = make() }, {} },
    { { x = make(3, 1) }, { dim = 2 } }, { { x = make(0, 4) }, { dim = 2 } },
    { { x = make(3, 130) }, { dim = 2 }, grad = SLOPES },
    { { x = make(130, 3) }, { dim = 1 }, grad = SLOPES },
    { { x = make(2, 1000) }, {}, grad = SLOPES },
  }
  for _, case in ipairs(empty or {}) do good[#good + 1] = case end
  return good
end

local out_of_range = { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" }
local function reduce_bad(...)
  return { out_of_range, { { x = I(3, 2) }, {}, "x", "i32", "f32" }, ... }
end

local nothing = { { { x = N(0, 3) }, { dim = 1 } }, { { x = N(3, 0) }, { dim = 2 } },
  { { x = N(0) }, {} } }
local no_elements = { { x = N(2, 0) }, { dim = 2 }, "x is [2, 0]", "no elements" }

cases.sum = { good = reduced(N, nothing), bad = { out_of_range,
  { { x = ROWS({ 2 }, 2147483647, 1) }, {}, "x [2]", "i32", "cast to f32" } } }
cases.mean = { good = reduced(N), bad = { out_of_range, no_elements } }
cases.max = { good = reduced(APART, { { { x = F({ 2, 3 }, 1, NAN, 2, -INF, INF, 0) }, { dim = 2 },
                                        grad = false } }), bad = { out_of_range, no_elements } }
cases.argmax = { good = reduced(APART,
    { { { x = F({ 2, 4 }, 1, NAN, 2, NAN, 3, 5, 5, 0) }, { dim = 2 } },
                                         { { x = F({ 3 }, -INF, -INF, -INF) }, {} } }),
                 bad = { out_of_range, no_elements } }

local wide = { { { x = F({ 2, 3 }, 1e4, 1e4, -1e4, -INF, 0, 1) }, { dim = 2 }, grad = false },
               { { x = F({ 2, 2 }, -INF, -INF, -INF, 3) }, { dim = 2 }, grad = false } }
cases.logsumexp = { good = reduced(N, { wide[1], wide[2], table.unpack(nothing) }),
  bad = reduce_bad() }

local function normalised()
  return {
    { { x = N(2, 3, 4) }, {} }, { { x = N(2, 3, 4) }, { dim = 1 } },
    { { x = N(2, 3, 4) }, { dim = -2 } },
    { { x = N(5) }, { dim = 1 } }, { { x = N(3, 1) }, { dim = 2 } },
    { { x = N(0, 4) }, { dim = 2 } },
    { { x = N(4, 0) }, { dim = 2 } }, { { x = N(3, 130) }, {}, grad = SLOPES },
    { { x = N(130, 3) }, { dim = 1 }, grad = SLOPES }, wide[1], wide[2],
  }
end
cases.softmax = { good = normalised(), bad = reduce_bad() }
cases.log_softmax = { good = normalised(), bad = reduce_bad() }

-- ---- products --------------------------------------------------------------------------

local function product(a, b) return { { a = a, b = b } } end
cases.matmul = {
  good = {
    product(N(3, 4), N(4, 5)), product(N(4), N(4, 5)), product(N(3, 4), N(4)), product(N(4), N(4)),
    product(N(2, 3, 4), N(2, 4, 5)), product(N(2, 1, 3, 4), N(3, 4, 2)),
    product(N(2, 3, 4), N(4, 1)),
    product(N(1, 1), N(1, 1)), product(N(3, 0), N(0, 4)), product(N(0, 3), N(3, 2)),
    product(N(2, 0, 3), N(3, 2)),
    { { a = N(70, 131), b = N(131, 33) }, grad = SLOPES },
    { { a = N(3, 9, 40), b = N(40, 17) }, grad = SLOPES },
  },
  bad = {
    { { a = N(2, 3), b = N(4, 5) }, {}, "a is [2, 3]", "b is [4, 5]", "dimension", "3", "4" },
    { { a = N(2, 2, 3), b = N(3, 3, 5) }, {}, "a is [2, 2, 3]", "b is [3, 3, 5]", "dimension -3" },
    { { a = N(), b = N(3, 5) }, {}, "a is []", "scalar" },
    { { a = N(2, 3), b = I(4, 3, 2) }, {}, "b", "i32", "f32" },
  },
}

local function row_by_row(K)
  return { { x = N(3, K), weight = N(5, K), bias = N(5) }, { step = true }, grad = SLOPES }
end
cases.linear = {
  good = {
    { { x = N(2, 3, 4), weight = N(5, 4), bias = N(5) } }, { { x = N(3, 4), weight = N(2, 4) } },
    { { x = N(4), weight = N(3, 4), bias = N(3) } }, { { x = N(0, 4), weight = N(3, 4) } },
    { { x = N(2, 1), weight = N(1, 1), bias = N(1) } }, row_by_row(4), row_by_row(37),
    { { x = N(131, 7), weight = N(9, 7), bias = N(9) }, grad = SLOPES },
    { { x = N(2, 3, 4), weight = N(5, 4), bias = N(5) }, { act = "gelu" } },
    { { x = N(3, 4), weight = N(5, 4), bias = N(5) }, { act = "gelu_tanh" } },
    { { x = N(3, 4), weight = N(5, 4) }, { act = "silu" } },
    { { x = N(3, 4), weight = N(5, 4) }, { act = "square_relu" } },
    { { x = N(4), weight = N(3, 4), bias = N(3) }, { act = "relu" } },
    { { x = N(0, 4), weight = N(3, 4) }, { act = "gelu" } },
    { { x = N(131, 7), weight = N(1030, 7), bias = N(1030) }, { act = "gelu" }, grad = SLOPES },
    { { x = N(3, 37), weight = N(5, 37) }, { step = true, act = "gelu" }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), weight = N(5, 4) }, {}, "x is [2, 3]", "weight is [5, 4]", "dimension" },
    { { x = N(2, 3), weight = N(5, 3), bias = N(4) }, {}, "bias is [4]", "[5]" },
    { { x = N(2, 3), weight = N(3) }, {}, "weight is [3]" },
    { { x = I(5, 2, 3), weight = N(5, 3) }, {}, "x", "i32", "f32" },
  },
}

-- ---- movement --------------------------------------------------------------------------

cases.reshape = {
  good = {
    { { x = N(2, 3, 4) }, { shape = { 6, 4 } } }, { { x = N(2, 3, 4) }, { shape = { 4, -1 } } },
    { { x = N(2, 3) }, { shape = { -1 } } }, { { x = N(1, 1) }, { shape = {} } },
    { { x = N() }, { shape = { 1, 1, 1 } } }, { { x = I(9, 2, 3) }, { shape = { 3, 2 } } },
    { { x = N(0, 3) }, { shape = { 3, 0 } } },
  },
  bad = {
    { { x = N(2, 3) }, { shape = { 4, 2 } }, "x is [2, 3]", "[4, 2]", "6", "8" },
    { { x = N(2, 3) }, { shape = { -1, -1 } }, "x is [2, 3]", "-1" },
    { { x = N(2, 3) }, { shape = { 4, -1 } }, "x is [2, 3]", "4" },
  },
}
cases.transpose = {
  good = {
    { { x = N(2, 3, 4) }, {} }, { { x = N(2, 3, 4) }, { a = 1, b = 3 } },
    { { x = N(2, 3) }, { a = -1, b = -1 } },
    { { x = I(9, 2, 3) }, {} }, { { x = N(0, 3) }, {} }, { { x = N(1, 5) }, {} },
  },
  bad = { { { x = N(2, 3) }, { a = 1, b = 4 }, "b is 4", "x is [2, 3]", "1 to 2" } },
}
cases.permute = {
  good = {
    { { x = N(2, 3, 4) }, { order = { 3, 1, 2 } } },
    { { x = N(2, 3, 4) }, { order = { -1, -2, -3 } } },
    { { x = I(9, 2, 3) }, { order = { 2, 1 } } }, { { x = N(2, 0, 3) }, { order = { 2, 3, 1 } } },
  },
  bad = {
    { { x = N(2, 3) }, { order = { 1 } }, "x is [2, 3]", "2", "1" },
    { { x = N(2, 3) }, { order = { 1, 1 } }, "x is [2, 3]", "twice" },
    { { x = N(2, 3) }, { order = { 1, 3 } }, "order is 3", "x is [2, 3]" },
  },
}
cases.slice = {
  good = {
    { { x = N(5, 3) }, { dim = 1, first = 2, last = 4 } },
    { { x = N(5, 3) }, { dim = -1, first = -2 } },
    { { x = N(5, 3) }, { first = 3 } }, { { x = N(5, 3) }, { dim = 1, last = -2 } },
    { { x = N(5, 3) }, { dim = 2, first = 2, last = 1 } },
    { { x = I(9, 4) }, { dim = 1, first = 2, last = 2 } },
    { { x = N(2, 3, 4) }, { dim = 2, first = 1, last = 3 } },
  },
  bad = {
    { { x = N(5, 3) }, { dim = 1, first = 2, last = 6 }, "2", "6", "dimension 1", "5" },
    { { x = N(5, 3) }, { dim = 1, first = 0 }, "0", "5" },
    { { x = N(5, 3) }, { dim = 3 }, "dim is 3", "x is [5, 3]", "1 to 2" },
  },
}
local function joined(dim, ...) return { { tensors = { ... } }, { dim = dim } } end
cases.concat = {
  good = {
    joined(1, N(2, 3), N(1, 3)), joined(2, N(2, 3), N(2, 1), N(2, 2)), joined(-1, N(2, 3)),
    joined(1, N(2, 3), N(0, 3)), joined(1, I(9, 2), I(9, 3)), joined(2, N(2, 2, 3), N(2, 4, 3)),
  },
  bad = {
    { { tensors = { N(2, 3), N(2, 4) } }, { dim = 1 }, "[2, 3]", "[2, 4]", "dimension -1" },
    { { tensors = { N(2, 3), N(3) } }, { dim = 1 }, "[2, 3]", "[3]", "dimension" },
    { { tensors = { N(2, 3), I(3, 2, 3) } }, { dim = 1 }, "f32", "i32" },
  },
}

cases.split_heads = {
  good = {
    { { x = N(2, 3, 12) }, { heads = 2 } }, { { x = N(1, 2, 3) }, { heads = 1 } },
    { { x = N(2, 0, 6) }, { heads = 2 } }, { { x = N(3, 7, 90) }, { heads = 5 }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3) }, { heads = 1 }, "x is [2, 3]" },
    { { x = N(2, 3, 10) }, { heads = 2 }, "x is [2, 3, 10]", "2" },
    { { x = I(3, 2, 3, 6) }, { heads = 2 }, "x", "i32", "f32" },
  },
}

-- ---- norms, tokens, losses -------------------------------------------------------------

cases.layernorm = {
  good = {
    { { x = N(2, 3, 8), weight = N(8), bias = N(8) } },
    { { x = N(3, 5), weight = N(5) }, { eps = 0.1 } },
    { { x = N(6), weight = N(6) } }, { { x = N(2, 1), weight = N(1), bias = N(1) }, grad = false },
    { { x = N(0, 4), weight = N(4), bias = N(4) } },
    { { x = N(300, 4), weight = N(4), bias = N(4) }, grad = SLOPES },
    { { x = N(9, 67), weight = N(67), bias = N(67) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), weight = N(4) }, {}, "x is [2, 3]", "weight is [4]", "dimension", "[3]" },
    { { x = N(2, 3), weight = N(3), bias = N(2) }, {}, "bias is [2]", "[3]" },
    { { x = I(3, 2, 3), weight = N(3) }, {}, "x", "i32", "f32" },
  },
}
cases.rmsnorm = {
  good = {
    { { x = N(2, 3, 8), weight = N(8) } }, { { x = N(3, 5), weight = N(5) }, { eps = 0.1 } },
    { { x = N(6), weight = N(6) } }, { { x = N(2, 1), weight = N(1) }, { eps = 0.5 } },
    { { x = N(0, 4), weight = N(4) } },
    { { x = N(300, 4), weight = N(4) }, grad = SLOPES },
    { { x = N(9, 67), weight = N(67) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), weight = N(4) }, {}, "x is [2, 3]", "weight is [4]", "dimension", "[3]" },
    { { x = N(2, 3), weight = I(3, 3) }, {}, "weight", "i32", "f32" },
  },
}
cases.add_layernorm = {
  good = {
    { { x = N(2, 3, 8), h = N(2, 3, 8), weight = N(8), bias = N(8) } },
    { { x = N(3, 5), h = N(3, 5), weight = N(5) }, { eps = 0.1 } },
    { { x = N(6), h = N(6), weight = N(6), bias = N(6) } },
    { { x = N(2, 3), h = N(2, 3), weight = N(3), bias = N(3) }, fixed = { x = true } },
    { { x = N(2, 3), h = N(2, 3), weight = N(3) }, fixed = { x = true, h = true } },
    { { x = N(0, 4), h = N(0, 4), weight = N(4), bias = N(4) } },
    { { x = N(140, 67), h = N(140, 67), weight = N(67), bias = N(67) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), h = N(2, 4), weight = N(3) }, {}, "x is [2, 3]", "h is [2, 4]", "one shape" },
    { { x = N(2, 3), h = N(3), weight = N(3) }, {}, "x is [2, 3]", "h is [3]", "one shape" },
    { { x = N(2, 3), h = N(2, 3), weight = N(4) }, {}, "weight is [4]", "dimension", "[3]" },
    { { x = N(2, 3), h = I(3, 2, 3), weight = N(3) }, {}, "h", "i32", "f32" },
  },
}
cases.add_rmsnorm = {
  good = {
    { { x = N(2, 3, 8), h = N(2, 3, 8), weight = N(8) } },
    { { x = N(3, 5), h = N(3, 5), weight = N(5) }, { eps = 0.1 } },
    { { x = N(6), h = N(6), weight = N(6) } },
    { { x = N(2, 3), h = N(2, 3), weight = N(3) }, fixed = { h = true } },
    { { x = N(0, 4), h = N(0, 4), weight = N(4) } },
    { { x = N(140, 67), h = N(140, 67), weight = N(67) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3), h = N(3, 3), weight = N(3) }, {}, "x is [2, 3]", "h is [3, 3]", "one shape" },
    { { x = N(2, 3), h = N(2, 3), weight = N(2) }, {}, "weight is [2]", "dimension", "[3]" },
    { { x = N(2, 3), h = N(2, 3), weight = I(3, 3) }, {}, "weight", "i32", "f32" },
  },
}
cases.embedding = {
  good = {
    { { table = N(5, 3), ids = I(5, 2, 4) } }, { { table = N(5, 3), ids = I(5) } },
    { { table = N(5, 3), ids = I(5, 0) } }, { { table = N(1, 1), ids = I(1, 3) } },
    { { table = N(7, 65), ids = I(7, 3, 5) }, grad = SLOPES },
    { { table = N(5, 150), ids = I(5, 9) }, grad = SLOPES },
  },
  bad = {
    { { table = N(5), ids = I(5, 2) }, {}, "table is [5]", "(V, D)" },
    { { table = N(5, 3), ids = N(2) }, {}, "ids", "f32", "i32" },
    { { table = N(5, 3), ids = ROWS({ 2 }, 1, 5) }, {}, "ids", "5" },
  },
}
cases.ngrams = {
  good = {
    { { ids = I(5, 2, 7) } }, { { ids = I(5, 2, 7) }, { shortest = 1, longest = 3, buckets = 11 } },
    { { ids = I(5, 1, 6), documents = ROWS({ 1, 6 }, 0, 0, 0, 1, 1, 2) }, { buckets = 1000 } },
    { { ids = I(5, 2, 3), before = ROWS({ 2, 3 }, -1, -1, 2, 4, 1, 0) } },
    { { ids = I(5, 2, 6), mask = ROWS({ 2, 6 }, 0, 0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1) },
      { shortest = 1, longest = 5 } },
    { { ids = I(5, 1, 6), mask = ROWS({ 1, 6 }, 1, 0, 1, 0, 1, 1),
        documents = ROWS({ 1, 6 }, 0, 0, 0, 1, 1, 1) } },
    { { ids = I(5, 1, 3), mask = ROWS({ 1, 3 }, 0, 1, 1), before = ROWS({ 1, 3 }, 2, 4, 1) } },
    { { ids = I(5, 2, 0) } }, { { ids = I(5, 1, 1) }, { shortest = 5, longest = 5 } },
    { { ids = I(5, 1, 9) }, { shortest = 16, longest = 16, buckets = 1 } },
  },
  bad = {
    { { ids = I(5, 3) }, {}, "ids is [3]", "(B, L)" },
    { { ids = N(2, 3) }, {}, "ids", "f32", "i32" },
    { { ids = I(5, 2, 3), documents = I(2, 2, 4) }, {}, "documents", "(2, 3)" },
    { { ids = I(5, 2, 3), before = I(2, 2, 2) }, {}, "before", "(2, 3)" },
    { { ids = I(5, 2, 3), mask = I(2, 2, 4) }, {}, "mask", "(2, 3)" },
    { { ids = I(5, 2, 3) }, { shortest = 4, longest = 3 }, "shortest 4", "longest 3" },
    { { ids = I(5, 2, 3) }, { buckets = 0 }, "buckets is 0" },
  },
}
cases.cross_entropy = {
  good = {
    { { logits = N(2, 3, 5), ids = I(5, 2, 3) } },
    { { logits = N(4, 5), ids = ROWS({ 4 }, 1, -1, 4, 0) } },
    { { logits = N(4, 5), ids = ROWS({ 4 }, 1, -1, 4, 0) }, { reduction = "sum" } },
    { { logits = N(4, 5), ids = ROWS({ 4 }, 1, -1, 4, 0) }, { reduction = "none" } },
    { { logits = N(2, 5), ids = ROWS({ 2 }, -1, -1) } }, { { logits = N(5), ids = I(5) } },
    { { logits = N(0, 5), ids = I(5, 0) } }, { { logits = N(3, 1), ids = I(1, 3) } },
    { { logits = F({ 2, 3 }, 1e4, -1e4, 0, 1e4, 1e4, 1e4), ids = ROWS({ 2 }, 1, 2) },
      grad = false },
    { { logits = N(6, 300), ids = I(300, 6) }, grad = SLOPES },
    { { logits = N(2, 3, 700), ids = I(5, 2, 3) }, { reduction = "sum" }, grad = SLOPES },
  },
  bad = {
    { { logits = N(2, 3, 5), ids = I(5, 2) }, {}, "logits is [2, 3, 5]", "ids is [2]",
      "dimension" },
    { { logits = N(2, 5), ids = N(2) }, {}, "ids", "f32", "i32" },
    { { logits = N(2, 5), ids = ROWS({ 2 }, 1, 5) }, {}, "5" },
    { { logits = N(2, 5), ids = I(5, 2) }, { reduction = "meen" }, "meen", "mean" },
  },
}
cases.linear_cross_entropy = {
  good = {
    { { x = N(2, 3, 4), weight = N(5, 4), ids = I(5, 2, 3) } },
    { { x = N(4, 6), weight = N(5, 6), ids = ROWS({ 4 }, 1, -1, 4, 0), bias = N(5) } },
    { { x = N(4, 6), weight = N(5, 6), ids = ROWS({ 4 }, 1, -1, 4, 0), bias = N(5) },
      { reduction = "sum" } },
    { { x = N(4, 6), weight = N(5, 6), ids = ROWS({ 4 }, 1, -1, 4, 0) }, { reduction = "none" } },
    { { x = N(2, 3, 4), weight = N(5, 4), ids = I(5, 2, 3) }, { best = true }, grad = false },
    { { x = N(3, 4), weight = N(5, 4), ids = ROWS({ 3 }, 2, -1, 0) },
      { best = true, reduction = "none" }, grad = false },
    { { x = N(2, 4), weight = N(5, 4), ids = ROWS({ 2 }, -1, -1) } },
    { { x = N(4), weight = N(5, 4), ids = I(5) } },
    { { x = N(0, 4), weight = N(5, 4), ids = I(5, 0) } },
    { { x = N(2, 70, 9), weight = N(33, 9), ids = I(33, 2, 70), bias = N(33) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3, 4), weight = N(5, 3), ids = I(5, 2, 3) }, {}, "x is [2, 3, 4]",
      "weight is [5, 3]", "dimension" },
    { { x = N(2, 3, 4), weight = N(5, 4), ids = I(5, 2) }, {}, "ids is [2]", "shaped like x" },
    { { x = N(2, 4), weight = N(5, 4), ids = ROWS({ 2 }, 1, 5) }, {}, "id 5" },
    { { x = N(2, 4), weight = N(5, 4), ids = I(5, 2), bias = N(4) }, {}, "bias must be [5]" },
  },
}
cases.mean_square = {
  good = { { { a = N(2, 3), b = N(2, 3) } }, { { a = N(), b = N() } },
    { { a = N(0, 2), b = N(0, 2) } },
           { { a = N(9, 67), b = N(9, 67) }, grad = SLOPES } },
  bad = { { { a = N(2, 3), b = N(3) }, {}, "a is [2, 3]", "b is [3]" },
          { { a = N(2), b = I(2, 2) }, {}, "b", "i32", "f32" } },
}

-- ---- parts of models -------------------------------------------------------------------

--- Gates drawn by `draw`, away from a kink where there is one.
local function gated(draw)
  return {
    good = { { { gate = draw(2, 3), value = N(2, 3) } }, { { gate = draw(), value = N() } },
             { { gate = draw(0, 3), value = N(0, 3) } },
             { { gate = draw(700), value = N(700) }, grad = SLOPES },
             { { gate = draw(5, 67), value = N(5, 67) }, grad = SLOPES } },
    bad = { { { gate = draw(2, 3), value = N(2, 4) }, {}, "gate is [2, 3]", "value is [2, 4]" },
            { { gate = draw(2), value = I(2, 2) }, {}, "value", "i32", "f32" } },
  }
end
cases.swiglu, cases.geglu, cases.geglu_tanh = gated(N), gated(N), gated(N)
cases.reglu, cases.glu = gated(AWAY), gated(N)
cases.rotary = {
  good = {
    { { x = N(2, 2, 5, 6) } }, { { x = N(1, 2, 3, 4) }, { halves = true } },
    { { x = N(1, 2, 3, 6) }, { dims = 4, offset = 7 } },
    { { x = N(2, 2, 4, 6), positions = I(9, 2, 4) }, { base = 100 } },
    { { x = N(2, 1, 4, 4), positions = I(5, 2, 4) }, { offset = 3 } },
    { { x = N(1, 1, 3, 4), positions = ROWS({ 1, 3 }, 100, 3, 7000) },
      { halves = true, offset = -2 } },
    { { x = N(1, 1, 1, 2) } }, { { x = N(2, 2, 0, 4) } },
    { { x = N(2, 3, 20, 34) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 3, 4) }, {}, "x is [2, 3, 4]", "(B, H, L, d)" },
    { { x = N(1, 1, 2, 3) }, {}, "x is [1, 1, 2, 3]", "3" },
    { { x = N(1, 1, 2, 4), positions = I(3, 1, 3) }, {}, "x is [1, 1, 2, 4]", "positions is [1, 3]",
      "[1, 2]" },
    { { x = N(1, 1, 2, 4), positions = N(1, 2) }, {}, "positions", "f32", "i32" },
  },
}
local holes = ROWS({ 2, 5 }, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0)
local packed = ROWS({ 2, 5 }, 0, 0, 1, 1, 1, 3, 3, 3, 3, 4)
cases.short_conv = {
  good = {
    { { x = N(2, 5, 3), weight = N(3, 3) } },
    { { x = N(2, 5, 3), weight = N(4, 3) }, { causal = false } },
    { { x = N(2, 5, 3), weight = N(3, 3) }, { causal = false } },
    { { x = N(1, 3, 2), weight = N(7, 2) } },
    { { x = N(2, 5, 2), weight = N(1, 2) } }, { { x = N(2, 0, 3), weight = N(3, 3) } },
    { { x = N(2, 5, 3), weight = N(3, 3), documents = packed } },
    { { x = N(2, 5, 3), weight = N(3, 3), mask = holes }, { causal = false } },
    { { x = N(2, 5, 3), weight = N(3, 3), documents = packed, mask = holes } },
    { { x = N(2, 130, 9), weight = N(4, 9) }, grad = SLOPES },
  },
  bad = {
    { { x = N(2, 5), weight = N(3, 5) }, {}, "x is [2, 5]", "weight is [3, 5]", "(B, L, D)" },
    { { x = N(2, 5, 3), weight = N(3, 4) }, {}, "x is [2, 5, 3]", "weight is [3, 4]" },
    { { x = N(2, 5, 3), weight = N(3, 3), mask = I(2, 2, 4) }, {}, "mask is [2, 4]", "(B, L)" },
    { { x = N(2, 5, 3), weight = N(3, 3), documents = N(2, 5) }, {}, "documents", "f32", "i32" },
  },
}

-- Random by design: ops_spec judges it by what its doc promises.
cases.dropout = {
  custom = true, good = {},
  bad = { { { x = I(3, 2) }, {}, "x", "i32", "f32" }, { { x = N(2) }, { p = 1 }, "p", "1" },
          { { x = N(2) }, { p = -0.5 }, "p" } },
  shapeless = true,
}

do
  local families = { pairs_of = pairs_of, unary = unary, reduced = reduced }
  for name, entry in pairs(require "spec.support.arithmetic_cases"(families)) do
    cases[name] = entry
  end
  for _, name in ipairs { "sum", "mean", "max", "argmax" } do
    for _, case in ipairs(families.whole()) do
      cases[name].good[#cases[name].good + 1] = case
    end
  end
end
for name, entry in pairs(require "spec.support.index_cases") do cases[name] = entry end
for name, entry in pairs(require "spec.support.attention_cases") do cases[name] = entry end
for name, entry in pairs(require("spec.support.graphs").cases) do cases[name] = entry end
for name, entry in pairs(require("spec.support.listed").cases) do cases[name] = entry end
for name, entry in pairs(require("spec.support.patterns").cases) do cases[name] = entry end
for name, entry in pairs(cases) do fill.settle(name, entry) end

return cases
