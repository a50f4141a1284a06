-- edges_spec.lua - every op at the edges of single precision: NaN, infinities, zeros, denormals,
-- 1e38, offsets far from 0. Values against the formula in double, gradients against its derivative
-- in double; where a value is NaN, so is the gradient that leads to it, and where it is finite the
-- gradient is no NaN. A row of finite numbers is normed right, whatever their size.
local pf = require "performer"
local array = require "spec.support.array"
local oracle = require "spec.support.oracle"
require "spec.support"

local NAN, INF, LARGEST = 0 / 0, math.huge, 3.4028234663852886e38

--- What a float holds of a double.
local function f32(x)
  if x ~= x then return x end
  if math.abs(x) >= 3.4028235677973366e38 then return x > 0 and INF or -INF end
  return array.round(x)
end

local function is_nan(x) return x ~= x end

--- A float got is the double want: to `relative` of it, or `absolute`.
local function close(got, want, relative, absolute)
  want = f32(want)
  if is_nan(want) then return is_nan(got) end
  if math.abs(want) == INF then return got == want or math.abs(got) > 3.4e38 and got * want > 0 end
  return math.abs(got - want) <= math.max(relative * math.abs(want), absolute)
end

local function check(got, want, relative, absolute, what)
  if close(got, want, relative, absolute) then return end
  error(("%s: %.9g, must be %.9g"):format(what, got, want), 0)
end

--- f(inputs...) and the gradients of its sum, all as flat lists.
local function run(f, ...)
  local inputs, lists = { ... }, {}
  for _, x in ipairs(inputs) do x:requires_grad() end
  local tape <close> = pf.tape()
  local y = f(table.unpack(inputs))
  lists[1] = array.of(y)
  tape:backward(y, pf.ones(table.unpack(y:shape())))
  for i, x in ipairs(inputs) do lists[i + 1] = array.of(x:grad()) end
  return table.unpack(lists)
end

local edges = { NAN, INF, -INF, 0.0, -0.0, 1e-44, -1e-44, 1e-38, -1e-38, 1e-30, -1e-30, 1e-20,
                1e-7, -1e-7, 0.5, -0.5, 1, -1, 3, -3, 12, -12, 17, -17, 80, -80, 88, 89, -88, -104,
                200, -200, 1e4, -1e4, 1e10, -1e10, 1.8e19, -1.8e19, 1e30, -1e30, 1e38, -1e38,
                LARGEST, -LARGEST }
for i, x in ipairs(edges) do edges[i] = f32(x) end

-- ---- one input -------------------------------------------------------------------------

local function normal(x) return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) end
local function sigmoid(x) return 1 / (1 + math.exp(-x)) end

--- exp(x) - 1, also near 0.
local function expm1(x) return math.abs(x) < 1e-5 and x + x * x / 2 or math.exp(x) - 1 end

--- P(Z > t) for t > 3, by its continued fraction.
local function tail(t)
  local f = t
  for k = 60, 1, -1 do f = t + k / f end
  return normal(t) / f
end

--- Where the oracle's formulas lose digits, or miss a limit, in double too.
local sharper = {
  tanh = function(x)
    local e = expm1(-2 * math.abs(x))
    return (x < 0 and e or -e) / (2 + e)
  end,
  elu = function(x) return x > 0 and x or expm1(x) end,
  sqrt = function(x) return x < 0 and NAN or x ^ 0.5 end,
  gelu = function(x) return x == -INF and 0 or x < -3 and x * tail(-x) end,
  gelu_tanh = function(x) return x < -20 and 0 end,
  silu = function(x) return x == -INF and 0 end,
}

local function value(name, x)
  local better = sharper[name] and sharper[name](x)
  return better or oracle[name]({ x = array.new({ 1 }, function() return x end) })[1][1]
end

--- 1 - tanh(u)^2, without the cancellation.
local function bump(u)
  local e = math.exp(-2 * math.abs(u))
  return 4 * e / (1 + e) ^ 2
end
local function inner(x) return math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3) end
--- a b, 0 where either is: its limit in the tails of gates.
local function damped(a, b) return (a == 0 or b == 0) and 0 or a * b end

local slopes = {
  neg = function() return -1 end,
  exp = math.exp,
  log = function(x) return x < 0 and NAN or 1 / x end,
  sqrt = function(x) return x < 0 and NAN or 0.5 / x ^ 0.5 end,
  square = function(x) return 2 * x end,
  tanh = bump,
  sigmoid = function(x) return damped(sigmoid(x), sigmoid(-x)) end,
  relu = function(x) return x > 0 and 1 or 0 end,
  requ = function(x) return x > 0 and 2 * x or 0 end,
  gelu = function(x)
    return x ~= 0 and math.abs(x) < 20 and value("gelu", x) / x + x * normal(x)
      or x == 0 and 0.5 or x > 0 and 1 or 0
  end,
  gelu_tanh = function(x)
    local u = inner(x)
    local slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return sigmoid(2 * u) + damped(bump(u), damped(x, slope)) / 2
  end,
  silu = function(x) return sigmoid(x) + damped(x, damped(sigmoid(x), sigmoid(-x))) end,
  elu = function(x) return x > 0 and 1 or math.exp(x) end,
  abs = function(x) return x == 0 and 0 or x > 0 and 1 or -1 end,
  sign = function() return 0 end,
  floor = function() return 0 end,
  ceil = function() return 0 end,
  round = function() return 0 end,
  reciprocal = function(x) return -1 / x / x end,
  rsqrt = function(x) return x < 0 and NAN or -0.5 * x ^ -1.5 end,
  cos = function(x) return -math.sin(x) end,
  sin = function(x) return math.cos(x) end,
}

describe("ops of one input", function()
  for _, op in ipairs(pf.ops()) do
    if slopes[op.name] then
      it(op.name .. " at the edges", function()
        local y, dx = run(pf[op.name], pf.tensor(edges))
        for i, x in ipairs(edges) do
          local what = ("%s(%g)"):format(op.name, x)
          check(y[i], value(op.name, x), 1e-5, 1e-36, what) -- gates fade below 1e-38
          if is_nan(x) then
            if op.name ~= "neg" then check(dx[i], NAN, 0, 0, what .. ", gradient") end
          else
            local slope = slopes[op.name](x)
            check(dx[i], slope, 2e-6, 2e-6, what .. ", gradient")
          end
        end
      end)
    end
  end

  it("are all of the table's", function()
    for _, op in ipairs(pf.ops()) do
      local plain = op.args == "x" and #op.attrs == 0 and op.differentiable
      if plain then assert.is_function(slopes[op.name], op.name .. ": no slope here") end
    end
  end)
end)

-- ---- two inputs ------------------------------------------------------------------------

local some = { NAN, INF, -INF, 0, 1e-44, 1e-30, -1e-30, 0.5, -2, 3, 1e10, 1e30, -1e30, 3e38 }
for i, x in ipairs(some) do some[i] = f32(x) end

local pairs_of = {
  add = { function(a, b) return a + b end, function() return 1 end, function() return 1 end },
  sub = { function(a, b) return a - b end, function() return 1 end, function() return -1 end },
  mul = { function(a, b) return a * b end, function(_, b) return b end, function(a) return a end },
  div = { function(a, b) return a / b end, function(_, b) return 1 / b end,
          function(a, b) return -(a / b) / b end },
  maximum = { function(a, b) return (a ~= a or b ~= b) and NAN or math.max(a, b) end,
              function(a, b) return a == b and 0.5 or a > b and 1 or a < b and 0 or NAN end,
              function(a, b) return a == b and 0.5 or a < b and 1 or a > b and 0 or NAN end },
  minimum = { function(a, b) return (a ~= a or b ~= b) and NAN or math.min(a, b) end,
              function(a, b) return a == b and 0.5 or a < b and 1 or a > b and 0 or NAN end,
              function(a, b) return a == b and 0.5 or a > b and 1 or a < b and 0 or NAN end },
  floor_divide = { function(a, b) return a // b end,
                   function(a, b) return is_nan(a / b) and NAN or 0 end,
                   function(a, b) return is_nan(a / b) and NAN or 0 end },
  remainder = { function(a, b) return a % b end, function() return 1 end,
                function(a, b) return -(a // b) end },
  pow = { function(a, b) return a ^ b end,
          function(a, b) return b == 0 and 0 or b * a ^ (b - 1) end,
          function(a, b)
            local y = a ^ b
            if a == 0 and b >= 0 or y == 0 and a > 0 then return 0 end
            return y * (a < 0 and NAN or math.log(a))
          end },
}

describe("ops of two inputs", function()
  for name, forms in pairs(pairs_of) do
    it(name .. " at the edges", function()
      local a, b = {}, {}
      for _, x in ipairs(some) do
        for _, y in ipairs(some) do a[#a + 1], b[#b + 1] = x, y end
      end
      local y, da, db = run(pf[name], pf.tensor(a), pf.tensor(b))
      for i = 1, #a do
        local what = ("%s(%g, %g)"):format(name, a[i], b[i])
        check(y[i], forms[1](a[i], b[i]), 1e-6, 2e-45, what)
        check(da[i], forms[2](a[i], b[i]), 1e-6, 2e-45, what .. ", gradient of a")
        check(db[i], forms[3](a[i], b[i]), 1e-6, 2e-45, what .. ", gradient of b")
      end
    end)
  end

  it("div and mean_square have finite gradients where only a step between is not", function()
    local a, b = pf.tensor { 3e38 }:requires_grad(), pf.tensor { 0.5 }:requires_grad()
    do
      local tape <close> = pf.tape()
      tape:backward(a / b, pf.full({ 1 }, 1e-38))
    end
    check(b:grad()[1]:item(), -f32(1e-38) * f32(3e38) / 0.25, 1e-6, 0, "div")
    local n = 1000
    local x, y = pf.full({ n }, 3e38):requires_grad(), pf.full({ n }, -3e38)
    local tape <close> = pf.tape()
    tape:backward(x:mean_square(y), pf.full({}, 1e-3))
    check(x:grad()[7]:item(), 2 * 1e-3 * 6e38 / n, 1e-5, 0, "mean_square")
  end)
end)

describe("max", function()
  it("of a row with NaN is NaN, and so is the gradient that leads there", function()
    local rows = { { 1, NAN, 5 }, { 7, 2, 0 } }
    local y, dx = run(function(t) return t:max(2) end, pf.tensor(rows))
    assert.is_true(is_nan(y[1]) and y[2] == 7)
    for i, want in ipairs { 0, NAN, 0, 1, 0, 0 } do check(dx[i], want, 0, 0, "along rows") end
    y, dx = run(function(t) return t:max(1) end, pf.tensor(rows):transpose():reshape(3, 2))
    assert.is_true(is_nan(y[1]) and y[2] == 7)
    for i, want in ipairs { 0, 1, NAN, 0, 0, 0 } do check(dx[i], want, 0, 0, "along columns") end
    y, dx = run(function(t) return t:max() end, pf.tensor { -INF, -INF })
    assert.same({ -INF, 1, 0 }, { y[1], dx[1], dx[2] })
  end)
end)

describe("gated linear units", function()
  local function at_the_edges(name, act)
    local gates, values = {}, {}
    for _, x in ipairs { NAN, INF, -INF, 0, 1e-30, 0.5, -2, 12, -80, 1e10, -1e30, 3e38 } do
      for _, y in ipairs { NAN, 0, 1e-44, -0.5, 3, 1e19, -1e30, 3e38 } do
        gates[#gates + 1], values[#values + 1] = f32(x), f32(y)
      end
    end
    local y, dgate, dvalue = run(pf[name], pf.tensor(gates), pf.tensor(values))
    for i, x in ipairs(gates) do
      local v, what = values[i], ("%s(%g, %g)"):format(name, gates[i], values[i])
      local open = value(act, x)
      check(y[i], open * v, 1e-5, 1e-37, what)
      check(dvalue[i], open, 1e-5, 1e-36, what .. ", gradient of the value")
      local slope = is_nan(x) and x or x == INF and (act == "sigmoid" and 0 or 1)
        or x == -INF and 0 or slopes[act](x)
      -- A shut relu lets nothing pass, NaN neither.
      local pulled = act == "relu" and slope == 0 and 0 or slope * v
      check(dgate[i], pulled, 1e-5, math.max(2e-6 * math.min(math.abs(v), 1e38), 1e-37),
        what .. ", gradient of the gate")
    end
  end

  for name, act in pf.sorted { swiglu = "silu", geglu = "gelu", geglu_tanh = "gelu_tanh",
                               reglu = "relu", glu = "sigmoid" } do
    it(name .. " at the edges", function() at_the_edges(name, act) end)
  end
end)

-- ---- sums ------------------------------------------------------------------------------

describe("sums and means", function()
  it("of finite numbers are right where a part of them is not finite", function()
    for _, n in ipairs { 4, 64, 1000 } do
      local function f(i) return (i % 4 < 2 and 3e38 or -3e38) + 0.0 end
      local x = array.fill({ n, 5 }, function(i) return f((i - 1) // 5) end)
      for _, layout in ipairs { "plain", "transposed" } do
        local t = array.tensor(x, layout)
        assert.same({ 0, 0, 0, 0, 0 }, t:sum(1):totable())
        assert.same({ 0, 0, 0, 0, 0 }, t:transpose():sum(2):totable())
        assert.equal(0, t:sum():item())
        local same = (t * 0 + 3e38)
        for _, mean in ipairs { same:mean(), same:mean(1)[3], same:transpose():mean(2)[2] } do
          check(mean:item(), 3e38, 1e-6, 0, "mean")
        end
      end
    end
  end)

  it("stay NaN and infinite where a number is", function()
    for _, bad in ipairs { NAN, INF, -INF } do
      local x = pf.ones(300, 70)
      local row = pf.full({ 70 }, 1)
      row[3] = bad
      x[17] = row
      local by_column, by_row = x:sum(1), x:sum(2)
      check(by_column[3]:item(), bad, 0, 0, "column")
      check(by_row[17]:item(), bad, 0, 0, "row")
      assert.equal(300, by_column[4]:item())
      assert.equal(70, by_row[16]:item())
    end
  end)
end)

-- ---- rows: softmax and its like --------------------------------------------------------

local rows = {
  { 10000, 9999, 9998 }, { -10000, -10001, -9990 }, { 1e30, 1e30, -1e30 }, { 3e38, -3e38, 0 },
  { -INF, 2, 3 }, { -INF, -INF, 5 }, { 0, 0, 0 }, { 1e-44, -1e-44, 0 }, { 88, -88, 0 },
  { 1234567, 1234567.5, 1234566 },
}

local function shares(row)
  local top, sum, p = math.max(table.unpack(row)), 0, {}
  for i, x in ipairs(row) do p[i] = math.exp(x - top) sum = sum + p[i] end
  for i in ipairs(row) do p[i] = p[i] / sum end
  return p, top, math.log(sum)
end

describe("softmax, log_softmax, logsumexp and cross_entropy", function()
  it("are right far from 0 and beside -inf, with their gradients", function()
    for _, given in ipairs(rows) do
      local row = {}
      for i, x in ipairs(given) do row[i] = f32(x) end
      local p, top, log = shares(row)
      local what = table.concat(given, ", ")
      local weights = { 0.5, -1.25, 2 }
      local w = pf.tensor(weights)
      local soft = run(function(x) return x:softmax() end, pf.tensor(row))
      local lse, dlse = run(function(x) return x:logsumexp(1, true) end, pf.tensor(row))
      check(lse[1], top + log, 1e-7, 1e-7, what .. ": logsumexp")
      local x = pf.tensor(row):requires_grad()
      local logs
      do
        local tape <close> = pf.tape()
        local y = x:log_softmax()
        logs = array.of(y)
        tape:backward(y, w)
      end
      local total = weights[1] + weights[2] + weights[3]
      for i = 1, 3 do
        check(soft[i], p[i], 1e-6, 1e-38, what .. ": softmax")
        check(dlse[i], p[i], 1e-6, 1e-38, what .. ": logsumexp, gradient")
        check(logs[i], row[i] - top - log, 1e-6, 1e-7, what .. ": log_softmax")
        check(x:grad()[i]:item(), weights[i] - p[i] * total, 1e-6, 1e-6,
          what .. ": log_softmax, gradient")
        local loss, dx = run(function(t)
          return t:cross_entropy(pf.tensor({ i - 1 }, { dtype = "i32" }), { reduction = "none" })
        end, pf.tensor { row })
        check(loss[1], top - row[i] + log, 1e-6, 1e-7, what .. ": cross_entropy")
        for j = 1, 3 do
          check(dx[j], p[j] - (i == j and 1 or 0), 1e-6, 1e-7, what .. ": cross_entropy, gradient")
        end
      end
    end
  end)

  it("of a row of -inf: 0, -inf, an infinite loss, and no gradient", function()
    local row = { -INF, -INF, -INF }
    local soft, dsoft = run(function(x) return x:softmax() end, pf.tensor(row))
    local logs, dlogs = run(function(x) return x:log_softmax() end, pf.tensor(row))
    local lse, dlse = run(function(x) return x:logsumexp(1, true) end, pf.tensor(row))
    local loss, dx = run(function(x)
      return x:cross_entropy(pf.tensor({ 1 }, { dtype = "i32" }), { reduction = "none" })
    end, pf.tensor { row })
    assert.same({ INF, -INF }, { loss[1], lse[1] })
    for i = 1, 3 do
      assert.same({ 0, -INF, 0, 0, 0, 0 }, { soft[i], logs[i], dsoft[i], dlogs[i], dlse[i], dx[i] })
    end
  end)

  it("of a row with inf: NaN, but for logsumexp, which is inf and shared by them", function()
    local lse, d = run(function(x) return x:logsumexp(1, true) end, pf.tensor { INF, 1, INF, -INF })
    assert.same({ INF, 0.5, 0, 0.5, 0 }, { lse[1], d[1], d[2], d[3], d[4] })
    for _, name in ipairs { "softmax", "log_softmax" } do
      local y, dx = run(pf[name], pf.tensor { INF, 1 })
      assert.is_true(is_nan(y[1]) and is_nan(y[2]) and is_nan(dx[1]) and is_nan(dx[2]), name)
    end
  end)

  it("of a row with NaN: NaN, value and gradient", function()
    local loss, d = run(function(x)
      return x:cross_entropy(pf.tensor({ 0 }, { dtype = "i32" }))
    end, pf.tensor { { 1, NAN } })
    assert.is_true(is_nan(loss[1]) and is_nan(d[1]) and is_nan(d[2]))
    for _, f in ipairs { pf.softmax, pf.log_softmax,
                         function(x) return x:logsumexp(1, true) end } do
      local y, dx = run(f, pf.tensor { 1, NAN, 3 })
      assert.is_true(is_nan(y[1]) and is_nan(dx[1]) and is_nan(dx[3]))
    end
  end)
end)

-- ---- rows: norms -----------------------------------------------------------------------

--- y and the gradients of the row's norm, in double.
local function norm(x, w, b, dy, eps, centred)
  local n, mean, square = #x, 0, 0
  for i = 1, n do mean = mean + (centred and x[i] / n or 0) end
  for i = 1, n do square = square + (x[i] - mean) ^ 2 / n end
  local rstd = 1 / (square + eps) ^ 0.5
  local y, dx, dw, g_mean, gh_mean = {}, {}, {}, 0, 0
  for i = 1, n do
    local h = (x[i] - mean) * rstd
    y[i], dw[i] = h * w[i] + (b and b[i] or 0), dy[i] * h
    g_mean = g_mean + (centred and dy[i] * w[i] / n or 0)
    gh_mean = gh_mean + dy[i] * w[i] * h / n
  end
  for i = 1, n do
    dx[i] = rstd * (dy[i] * w[i] - g_mean - (x[i] - mean) * rstd * gh_mean)
  end
  return y, dx, dw, rstd
end

local function largest(list)
  local top = 0
  for _, x in ipairs(list) do top = math.max(top, math.abs(x)) end
  return top
end

local function hold_norm(name, x, eps, what)
  local n, random = #x, array.random(7)
  local w, b, dy = random:normals { n }, random:normals { n }, random:normals { n }
  local centred = name == "layernorm"
  local y, dx, dw, rstd = norm(x, w, centred and b, dy, eps, centred)
  local grain = 1e-44 * rstd -- what denormals can't tell apart
  local t, tw = pf.tensor(x):requires_grad(), array.tensor(w):requires_grad()
  local got
  do
    local tape <close> = pf.tape()
    local out = centred and t:layernorm(tw, { bias = array.tensor(b), eps = eps })
      or t:rmsnorm(tw, { eps = eps })
    got = array.of(out)
    tape:backward(out, array.tensor(dy))
  end
  local got_dx, got_dw = array.of(t:grad()), array.of(tw:grad())
  for i = 1, n do
    check(got[i], y[i], 1e-5, math.max(5e-6 * largest(y), grain), what)
    check(got_dx[i], dx[i], 1e-5, math.max(2e-6 * rstd * largest(dy), 1e-44), what .. ", gradient")
    check(got_dw[i], dw[i], 1e-5, math.max(1e-5 * largest(dw), grain),
      what .. ", gradient of the weight")
  end
end

describe("norms", function()
  for _, name in ipairs { "layernorm", "rmsnorm" } do
    it(name .. " of rows of any size, and their gradients", function()
      for _, n in ipairs { 2, 7, 50 } do
        local base = array.random(n):normals { n }
        for _, size in ipairs { 1e-44, 1e-38, 1e-25, 1e-13, 1e-5, 1, 1e5, 1e15, 1e18, 1e19, 1e25,
          1e30, 1e37, 5e37 } do
          local x = {}
          for i = 1, n do x[i] = f32(math.max(-6, math.min(6, base[i])) * size) end
          for _, eps in ipairs { 1e-5, 1e-12, 0 } do
            if eps > 0 or size > 1e-40 then
              hold_norm(name, x, eps, ("%s of %d numbers, size %g, eps %g"):format(name, n, size,
                eps))
            end
          end
        end
      end
    end)
  end

  it("of rows whose mean is large beside their spread", function()
    for _, mean in ipairs { 1e3, 1e5, 1e8, -1e20, 3e38 } do
      local x = {}
      for i = 1, 16 do x[i] = f32(mean * (1 + ((i * 7) % 5 - 2) * 2 ^ -21)) end
      hold_norm("layernorm", x, 1e-5, ("mean %g"):format(mean))
    end
  end)

  it("of the largest numbers there are, of one sign and of both", function()
    hold_norm("layernorm", { LARGEST, -LARGEST, LARGEST, -LARGEST }, 1e-5, "both signs")
    hold_norm("rmsnorm", { LARGEST, -LARGEST, LARGEST }, 1e-5, "both signs")
    hold_norm("rmsnorm", { LARGEST, LARGEST, 1, 0 }, 1e-5, "one sign")
  end)

  it("of a sum have the bits of add and norm at every size", function()
    for _, size in ipairs { 1e-20, 1, 1e19, 1e37 } do
      local x, h, w = pf.randn(3, 20) * size, pf.randn(3, 20) * size, pf.randn(20)
      for _, name in ipairs { "layernorm", "rmsnorm" } do
        local sum, y = pf["add_" .. name](x, h, w)
        assert.equal((x + h):tobytes(), sum:tobytes())
        assert.equal(pf[name](x + h, w):tobytes(), y:tobytes())
      end
    end
  end)

  it("of rows with NaN are NaN, and rows beside them are not", function()
    local x = pf.randn(3, 8)
    local row = pf.randn(8)
    row[2] = NAN
    x[2] = row
    for _, name in ipairs { "layernorm", "rmsnorm" } do
      local y, dx = run(function(t) return t[name](t, pf.ones(8)) end, x:detach())
      for i = 1, 24 do
        local bad = i > 8 and i <= 16
        assert.equal(bad, is_nan(y[i]))
        assert.equal(bad, is_nan(dx[i]))
      end
    end
  end)
end)

describe("the norm of gradients", function()
  it("is right for huge and tiny ones, and clips them", function()
    for _, size in ipairs { 1e-20, 1, 1e20, 1e30 } do
      local w = pf.zeros(4):requires_grad()
      local opt = pf.optim.sgd({ w = w }, { lr = 1, momentum = 0 })
      local tape <close> = pf.tape()
      tape:backward((w * size):sum())
      local norm_ = opt:step { clip = 2 * math.min(size, 1) }
      check(norm_, 2 * f32(size), 1e-6, 0, "norm")
      check(w[3]:item(), -math.min(size, 1), 1e-5, 0, "step")
    end
  end)
end)
