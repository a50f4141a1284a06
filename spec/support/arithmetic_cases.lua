-- arithmetic_cases.lua - of cases.lua, whose rules hold here too: comparisons, choices, whole
-- numbers, and what is summed up along a dimension. Given the shapes that cases.lua has for
-- families.
local fill = require "spec.support.fill"

local N, AWAY, POS, I, APART = fill.N, fill.AWAY, fill.POS, fill.I, fill.APART
local ROWS, F = fill.ROWS, fill.F
local NAN, INF = 0 / 0, math.huge
local SLOPES = "slopes"
local LEAST, MOST = -2147483648, 2147483647

--- The cases without a gradient.
local function hard(good)
  for _, case in ipairs(good) do case.grad = false end
  return good
end

--- Whole numbers of both signs, none of which is 0; -1 and 1; different positive numbers.
local ODD = fill.CHANGED(function(...) return I(9, ...) end, function(x) return 2 * x - 7 end)
local UNITS = fill.CHANGED(fill.HALVES(0), function(x) return x < 2 and -1 or 1 end)
local ABOVE = fill.CHANGED(APART, function(x) return x + 4 end)

return function(families)
  local pairs_of, unary, reduced = families.pairs_of, families.unary, families.reduced
  local cases = {}

  local function add(good, more)
    for _, case in ipairs(more) do good[#good + 1] = case end
    return good
  end

  -- ---- comparisons, logic, choices ---------------------------------------------------------

  local mixed = {
    { { a = N(2, 3), b = N(2, 4) }, {}, "a is [2, 3]", "b is [2, 4]", "dimension -1" },
    { { a = N(2), b = I(3, 2) }, {}, "f32", "i32", "cast makes one dtype of them" },
  }
  for _, name in ipairs { "eq", "ne", "lt", "le", "gt", "ge" } do
    local good = hard(pairs_of(fill.HALVES(0), fill.HALVES(0)))
    cases[name] = { bad = mixed, good = add(good, hard {
      { { a = F({ 7 }, NAN, 1, NAN, INF, -INF, 0, 1e-45),
          b = F({ 7 }, NAN, NAN, 1, INF, INF, -0.0, 0) } },
      { { a = I(3, 4, 5), b = I(3, 4, 5) } }, { { a = I(3, 4, 1), b = I(3, 3) } },
      { { a = ROWS({ 3 }, LEAST, MOST, LEAST), b = ROWS({ 3 }, MOST, LEAST, LEAST) } },
      { { a = N(130, 67), b = N(67) } },
    }) }
  end

  local not_whole = { "f32", "i32", "ne(" }
  for _, name in ipairs { "logical_and", "logical_or", "logical_xor" } do
    cases[name] = {
      good = hard { { { a = I(2, 3, 4), b = I(2, 3, 4) } }, { { a = I(3, 3, 1), b = I(2, 4) } },
                    { { a = I(2), b = I(2, 5) } }, { { a = I(2, 0, 3), b = I(2, 3) } },
                    { { a = ROWS({ 4 }, 0, 0, -5, LEAST), b = ROWS({ 4 }, 0, MOST, 0, 256) } } },
      bad = { { { a = I(2, 2, 3), b = I(2, 2, 4) }, {}, "a is [2, 3]", "dimension -1" },
              { { a = N(2), b = I(2, 2) }, {}, "a [2]", table.unpack(not_whole) },
              { { a = I(2, 2), b = N(2) }, {}, "cast makes one dtype of them" } },
    }
  end
  cases.logical_not = { shapeless = true,
    good = hard { { { x = I(2, 3, 4) } }, { { x = I(2) } }, { { x = I(2, 0, 4) } },
                  { { x = ROWS({ 3 }, 0, -1, 256) } } },
    bad = { { { x = N(2) }, {}, "x [2]", table.unpack(not_whole) } } }
  for _, name in ipairs { "isnan", "isinf", "isfinite" } do
    local entry = unary(N)
    hard(add(entry.good, { { { x = F({ 6 }, NAN, INF, -INF, 0, 3e38, -1e-45) } } }))
    cases[name] = entry
  end

  cases.where = {
    good = {
      { { cond = I(2, 2, 3), a = N(2, 3), b = N(2, 3) } },
      { { cond = I(2, 3), a = N(2, 3), b = N() } },
      { { cond = I(2, 2, 1), a = N(4, 1, 3), b = N(3) } },
      { { cond = I(2), a = N(2, 2), b = N(2) } },
      { { cond = I(2, 4, 2, 3), a = N(1), b = N(2, 1) } },
      { { cond = I(2, 0, 3), a = N(3), b = N(1, 3) } },
      { { cond = I(2, 130, 67), a = N(67), b = N(130, 1) }, grad = SLOPES },
      { { cond = ROWS({ 4 }, 1, 0, -3, 0), a = F({ 4 }, 1, NAN, 2, INF),
          b = F({ 4 }, NAN, 5, INF, 7) }, grad = false },
      { { cond = I(2, 5), a = I(9, 5), b = ROWS({}, MOST) }, grad = false },
    },
    bad = {
      { { cond = N(2), a = N(2), b = N(2) }, {}, "cond", "f32", "i32" },
      { { cond = I(2, 2), a = N(2), b = I(2, 2) }, {}, "a [2] is f32", "cast makes one dtype" },
      { { cond = I(2, 2), a = N(3), b = N() }, {}, "cond is [2]", "a is [3]", "dimension -1" },
      { { cond = I(2, 2, 3), a = N(), b = N(3, 3) }, {}, "b is [3, 3]", "dimension -2" },
    },
  }

  cases.cast = {
    good = {
      { { x = N(2, 3) }, { dtype = "f32" } }, { { x = N(0, 3) }, { dtype = "f32" } },
      { { x = F({ 8 }, 0.99, -0.99, 1.5, -1.5, -2147483648, 2147483520, -0.0, 3) },
        { dtype = "i32" }, grad = false },
      { { x = N(2, 3, 4) }, { dtype = "i32" }, grad = false },
      { { x = N() }, { dtype = "i32" }, grad = false },
      { { x = N(0) }, { dtype = "i32" }, grad = false },
      { { x = I(99, 4, 5) }, { dtype = "f32" } }, { { x = I(99, 4, 5) }, { dtype = "i32" } },
      { { x = ROWS({ 4 }, 16777216, LEAST, -16777217, 7) }, { dtype = "f32" } },
    },
    bad = {
      { { x = F({ 2 }, 0, NAN) }, { dtype = "i32" }, "element 2", "x [2]", "nan", "where" },
      { { x = F({ 2 }, 2147483648, 1) }, { dtype = "i32" }, "element 1", "2.14748e+09", "clamp" },
      { { x = F({ 1 }, -2147483904) }, { dtype = "i32" }, "i32 cannot hold" },
      { { x = F({ 1 }, INF) }, { dtype = "i32" }, "inf" },
      { { x = N(1) }, {}, "dtype is missing" },
      { { x = N(1) }, { dtype = "f64" }, "no dtype 'f64'" },
    },
    shapeless = true,
  }

  -- ---- elements --------------------------------------------------------------------------

  local binary_bad = { mixed[1], mixed[2] }
  cases.minimum = { bad = binary_bad, good = add(pairs_of(fill.HALVES(0), fill.HALVES(0.25)), {
    { { a = F({ 4 }, NAN, 1, INF, -INF), b = F({ 4 }, 1, NAN, 2, 3) }, grad = false },
    { { a = I(9, 7), b = I(9, 7) }, grad = false },
  }) }

  local no_zero = { { a = I(9, 3), b = ROWS({ 3 }, 1, 0, 2) }, {}, "b [3] has a 0" }
  for _, name in ipairs { "floor_divide", "remainder" } do
    -- Quotients stay half a step away from whole numbers.
    local good = pairs_of(fill.HALVES(0.25), UNITS)
    cases[name] = { bad = { mixed[1], mixed[2], no_zero }, good = add(good, {
      { { a = F({ 8 }, 7, -7, 7, -7, 1, 0, 3, 1e30), b = F({ 8 }, 3, 3, -3, -3, 0.1, 5, INF, 3) },
        grad = false },
      { { a = F({ 4 }, 1, 0, NAN, INF), b = F({ 4 }, 0, 0, 1, 2) }, grad = false },
      { { a = ODD(4, 5), b = ODD(4, 5) }, grad = false },
      { { a = ODD(4, 1), b = ODD(5) }, grad = false },
      { { a = ROWS({ 6 }, 7, -7, 7, -7, LEAST, LEAST), b = ROWS({ 6 }, 3, 3, -3, -3, -1, 2) },
        grad = false },
      { { a = I(9, 0, 3), b = ROWS({ 3 }, 1, 0, 2) }, grad = false },
    }) }
  end
  cases.floor_divide.flat = true

  local steps = fill.HALVES(-1.75)
  for _, name in ipairs { "sign", "floor", "ceil", "round" } do
    cases[name] = unary(steps, { 0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.5, -2.5, 3e9, -3e9, 1e-30, -0.3,
                                 8388607.5, INF, -INF, NAN }, 1e-37)
    cases[name].flat = true
  end
  cases.reciprocal = unary(AWAY, { 0, 3, -1e-30, 1e30, 1e-45, INF, -INF, NAN })
  cases.rsqrt = unary(POS, { 0, 4, 1e-30, 1e30, 1e-45, -1, INF, NAN })

  cases.clamp = {
    good = {
      { { x = steps(2, 3) }, { min = -1, max = 1 } }, { { x = steps(5, 4) }, { min = 0 } },
      { { x = steps(3) }, { max = 0.5 } }, { { x = steps() }, {} },
      { { x = steps(0, 2) }, { min = 1 } },
      { { x = steps(7, 67) }, { min = -0.5, max = 1 }, grad = SLOPES },
      { { x = F({ 5 }, NAN, INF, -INF, 1e30, 0) }, { min = -2, max = 3 }, grad = false },
      { { x = F({ 3 }, NAN, INF, -INF) }, { min = 2, max = 2 }, grad = false },
      { { x = ROWS({ 4 }, LEAST, MOST, 3, -3) }, { min = -2, max = 5 }, grad = false },
      { { x = ROWS({ 3 }, LEAST, MOST, 3) }, { max = LEAST }, grad = false },
      { { x = I(9, 3, 4) }, { min = 4 }, grad = false },
    },
    bad = {
      { { x = N(2) }, { min = 2, max = 1 }, "min is 2", "max is 1" },
      { { x = N(2) }, { min = NAN }, "min is NaN" },
      { { x = I(3, 2) }, { max = 1.5 }, "max is 1.5", "i32" },
      { { x = I(3, 2) }, { min = INF }, "min is inf", "i32" },
      { { x = I(3, 2) }, { max = 3e9 }, "max is 3e+09" },
    },
    shapeless = true,
  }

  -- ---- along a dimension -----------------------------------------------------------------

  local function nothing()
    return { { { x = N(0, 3) }, { dim = 1 } }, { { x = N(3, 0) }, { dim = 2 } },
             { { x = N(0) }, {} } }
  end
  local out_of_range = { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" }
  local no_elements = { { x = N(2, 0) }, { dim = 2 }, "x is [2, 0]", "no elements" }

  local function whole(more)
    return add({ { { x = I(99, 2, 3, 4) }, { dim = 2 }, grad = false },
                 { { x = I(99, 3, 5) }, {}, grad = false },
                 { { x = I(99, 3, 5) }, { dim = 1, keep = true }, grad = false } }, more or {})
  end
  families.whole = whole -- sum, mean, max, argmax have them too

  cases.min = { bad = { out_of_range, no_elements }, good = add(add(reduced(APART), whole()), {
    { { x = F({ 2, 3 }, 1, NAN, 2, -INF, INF, 0) }, { dim = 2 }, grad = false },
    { { x = ROWS({ 3 }, MOST, LEAST, LEAST) }, {}, grad = false } }) }
  cases.argmin = { bad = { out_of_range, no_elements }, good = add(add(reduced(APART), whole()), {
    { { x = F({ 2, 4 }, 1, NAN, 2, NAN, 5, 3, 3, 4) }, { dim = 2 } },
    { { x = F({ 3 }, INF, INF, INF) }, {} }, { { x = ROWS({ 4 }, 5, LEAST, LEAST, 0) }, {} } }) }
  for _, name in ipairs { "any", "all" } do
    cases[name] = { bad = { { { x = I(2, 2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]" },
                            { { x = N(2) }, {}, "x [2]", table.unpack(not_whole) } },
                    good = whole { { { x = I(2, 2, 3) }, { dim = 2 } }, { { x = I(2) }, {} },
                                   { { x = I(2, 0, 3) }, { dim = 1 } }, { { x = I(2, 0) }, {} },
                                   { { x = ROWS({ 2, 2 }, 0, -1, 0, 0) }, { dim = 2 } } } }
  end
  do
    local good = add(nothing(), {
      { { x = F({ 2, 3 }, 0, 2, 3, 0, 0, 5) }, { dim = 2 } },
      { { x = F({ 3 }, NAN, 0, INF) }, {}, grad = false },
      { { x = ODD(4, 3, 2) }, { dim = 2 }, grad = false },
      { { x = ROWS({ 4 }, 65536, 65536, 0, LEAST) }, {}, grad = false },
      { { x = ROWS({ 3 }, 65536, 32768, -1) }, {}, grad = false },
    })
    for _, case in ipairs(reduced(AWAY)) do -- a product of 1,000 numbers is 0 or infinite
      if #case[1].x < 50 then good[#good + 1] = case end
    end
    cases.prod = { good = good, bad = { out_of_range,
      { { x = ROWS({ 2 }, 65536, 32768) }, {}, "x [2]", "i32", "cast to f32" } } }
  end

  local function spread(single)
    local good = {
      { { x = N(2, 3, 4) }, {} }, { { x = N(2, 3, 4) }, { dim = 1 } },
      { { x = N(2, 3, 4) }, { dim = 2, keep = true, unbiased = false } },
      { { x = N(2, 3, 4) }, { dim = -1, unbiased = false } }, { { x = N(5) }, {} },
      { { x = N(0, 4) }, { dim = 2 } }, { { x = N(3, 130) }, { dim = 2 }, grad = SLOPES },
      { { x = N(130, 3) }, { dim = 1 }, grad = SLOPES }, { { x = N(2, 1000) }, {}, grad = SLOPES },
      { { x = F({ 4 }, 3e38, -3e38, 3e38, 0) }, {}, grad = false },
      { { x = F({ 4 }, 1e8, 1e8 + 8, 1e8, 1e8 + 8) }, {}, grad = false },
      { { x = F({ 2, 3 }, 1, NAN, 2, 1, INF, 2) }, { dim = 2 }, grad = false }, single,
    }
    return { good = good, bad = {
      { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" },
      { { x = I(3, 2) }, {}, "x", "i32", "f32" }, no_elements,
      { { x = N(3, 1) }, { dim = 2 }, "x is [3, 1]", "one element", "unbiased" },
    } }
  end
  cases.var = spread { { x = N(3, 1) }, { dim = 2, unbiased = false } }
  cases.std = spread { { x = N(3, 1) }, { dim = 2, unbiased = false }, grad = false }

  cases.norm = {
    good = {
      { { x = F({ 3 }, 3e38, 3e38, -1) }, {}, grad = false },
      { { x = F({ 3 }, 1e-30, 1e-30, 0) }, { p = 3 }, grad = false, absolute = 1e-37 },
      { { x = F({ 3 }, 1e30, 1e30, 0) }, { p = 5 }, grad = false },
      { { x = F({ 2, 2 }, NAN, 1, -INF, 1) }, { dim = 2 }, grad = false },
      { { x = F({ 2, 2 }, NAN, 1, -INF, 1) }, { dim = 2, p = INF }, grad = false },
      { { x = F({ 2 }, 0, 0) }, {}, grad = false },
    },
    bad = { { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" },
            { { x = I(3, 2) }, {}, "x", "i32", "f32" },
            { { x = N(2) }, { p = 0.5 }, "p is 0.5", "1 or more" },
            { { x = N(2) }, { p = NAN }, "p is" } },
  }
  for _, p in ipairs { 2, 1, INF, 3 } do
    for _, case in ipairs(reduced(p == INF and ABOVE or AWAY, p == 2 and nothing() or nil)) do
      case[2].p = p
      if p ~= INF or #case[1].x < 50 then add(cases.norm.good, { case }) end
    end
  end

  cases.cumsum = {
    good = {
      { { x = N(2, 3, 4) }, {} }, { { x = N(2, 3, 4) }, { dim = 1 } },
      { { x = N(2, 3, 4) }, { dim = -2 } },
      { { x = N(5) }, { dim = 1 } }, { { x = N(3, 1) }, {} }, { { x = N(0, 4) }, {} },
      { { x = N(4, 0) }, { dim = 2 } }, { { x = N(3, 130) }, {}, grad = SLOPES },
      { { x = N(130, 3) }, { dim = 1 }, grad = SLOPES },
      { { x = F({ 4 }, 1, NAN, 2, 3) }, {}, grad = false },
      { { x = F({ 3 }, INF, 1, -INF) }, {}, grad = false },
      { { x = I(99, 4, 5) }, { dim = 1 } }, { { x = ROWS({ 3 }, MOST, -5, 5) }, {} },
    },
    bad = { { { x = N(2, 3) }, { dim = 3 }, "dim is 3", "x is [2, 3]", "1 to 2" },
            { { x = N() }, {}, "scalar" },
            { { x = ROWS({ 3 }, MOST, 1, -5) }, {}, "x [3]", "i32", "cast to f32" } },
  }

  return cases
end
