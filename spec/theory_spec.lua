-- theory_spec.lua - what is proven about the estimators, measured: means, mean squared errors
-- for independent rows, what orthogonal rows gain, how errors fall with m, and where positive
-- features are below trigonometric ones and where above. Seeds are fixed; a measured mean is
-- held against its formula within 4.5 of its own standard errors, and that error has to be
-- small enough for the test to see something. Draws run as heads: one op does thousands.
local pf = require "performer"

local DRAWS = 8192

--- Lines beside the results, as TAP allows them.
local function note(...) print("# " .. string.format(...)) end

-- ---- pairs and draws -------------------------------------------------------------------

--- A vector of length d and squared norm `square`, leaning towards the first axes.
local function vector(d, square, phase)
  local x, sum = {}, 0
  for i = 1, d do
    x[i] = math.cos(1.7 * i * i + phase) + 0.3
    sum = sum + x[i] ^ 2
  end
  for i = 1, d do x[i] = x[i] * math.sqrt(square / sum) end
  return x
end

local function dot(x, y)
  local sum = 0
  for i = 1, #x do sum = sum + x[i] * y[i] end
  return sum
end

--- A pair with |x + y|^2 = s: each half of z = x + y, and a part across that cancels.
local function pair(d, s, across)
  local z, w = vector(d, s, 0.4), vector(d, 1, 2.1)
  local along = dot(z, w) / s
  local x, y = {}, {}
  for i = 1, d do
    local side = across * (w[i] - along * z[i])
    x[i], y[i] = 0.5 * z[i] + side, 0.5 * z[i] - side
  end
  return { x = x, y = y, xy = dot(x, y), xx = dot(x, x), yy = dot(y, y), s = s,
           t = dot(x, x) + dot(y, y) - 2 * dot(x, y) }
end

local function negated(p)
  local x, y = {}, {}
  for i = 1, #p.x do x[i], y[i] = -p.x[i], -p.y[i] end
  return { x = x, y = y, xy = p.xy, xx = p.xx, yy = p.yy, s = p.s, t = p.t }
end

--- (1, draws, #pairs, d) of one side of the pairs.
local function rows(pairs_, side, d, draws)
  local flat = {}
  for _, p in ipairs(pairs_) do
    for i = 1, d do flat[#flat + 1] = p[side][i] end
  end
  return pf.tensor(flat):reshape(1, 1, #pairs_, d) + pf.zeros(1, draws, 1, 1)
end

--- Estimates of exp(x.y) over exp(x.y), (draws, #pairs): o of kernel, with map and draws.
local function ratios(o, pairs_)
  local draws, d = o.draws or DRAWS, #pairs_[1].x
  local options = { head_dim = d, features = o.m, rows = o.rows, norms = o.norms, seed = o.seed,
                    scale = 1, tilt = o.tilt }
  local kernel = pf.kernel[o.map](options)
  local W = kernel:projection(d, draws)
  local given = pf.kernel[o.map] { projection = W, scale = 1, tilt = o.tilt }
  local q = given:features(rows(pairs_, "x", d, draws), "query")
  local k = given:features(rows(pairs_, "y", d, draws), "key")
  local exact = {}
  for n, p in ipairs(pairs_) do exact[n] = math.exp(-p.xy) end
  return (q * k):sum(-1):reshape(draws, #pairs_) * pf.tensor(exact):reshape(1, #pairs_)
end

--- Mean over draws of each column, and its standard error: two lists.
local function moments(x)
  local n = x:size(1)
  local mean = x:mean(1)
  local gap = x - mean:reshape(1, x:size(2))
  local error = ((gap * gap):mean(1) * (1 / (n - 1))):sqrt()
  return mean:totable(), error:totable()
end

--- Squared errors of the estimates, relative.
local function squared_errors(o, pairs_)
  local e = ratios(o, pairs_) - 1
  return moments(e * e)
end

local function assert_mean(want, mean, error, what)
  assert.is_true(math.abs(mean - want) <= 4.5 * error,
    ("%s: %.5g, measured %.5g +- %.2g"):format(what, want, mean, error))
end

-- ---- formulas --------------------------------------------------------------------------

--- Relative MSE for independent Gaussian rows, by m, the pair and the tilt A.
local formulas = {
  softmax = function(m, p) return (math.exp(p.s) - 1) / m end,
  softmax_hyp = function(m, p)
    return 0.5 * (1 - math.exp(-p.s)) * (math.exp(p.s) - 1) / m
  end,
  softmax_trig = function(m, p) return 0.5 * math.exp(p.t) * (1 - math.exp(-p.t)) ^ 2 / m end,
  softmax_plus = function(m, p, A)
    local d = #p.x
    local square = (1 - 4 * A) ^ d * (1 - 8 * A) ^ (-d / 2) *
      math.exp(2 * (1 - 4 * A) * p.s / (1 - 8 * A) - p.s)
    return (square - 1) / m
  end,
}

--- The tilt of FAVOR++ from s = mean |x + y|^2 (arXiv 2205.15317).
local function best_tilt(d, s)
  local rho = (math.sqrt((2 * s + d) ^ 2 + 8 * d * s) - 2 * s - d) / (4 * s)
  return (1 - 1 / rho) / 8
end

--- E[exp(w.v)] e^(-|v|^2 / 2) for |w| = sqrt(d), |v|^2 = s: what SMREG has instead of 1.
local function regular_mean(d, s)
  local term, sum = 1, 1
  for n = 0, 200 do
    term = term * (s * d / 4) / ((d / 2 + n) * (n + 1))
    sum = sum + term
  end
  return math.exp(-s / 2) * sum
end

local unbiased = { "softmax", "softmax_hyp", "softmax_trig", "softmax_plus" }

-- ---- means -----------------------------------------------------------------------------

describe("the mean of the estimate", function()
  local d, m = 8, 8
  local list = { pair(d, 0.98, 0.2), negated(pair(d, 0.98, 0.2)), pair(d, 0.5, 0.4),
                 negated(pair(d, 0.5, 0.4)) }

  for _, name in ipairs(unbiased) do
    for _, kind in ipairs { "iid", "orthogonal" } do
      it(("is exp(x.y) for +z and -z: %s, %s rows"):format(name, kind), function()
        local mean, error = moments(ratios({ map = name, m = m, rows = kind, seed = 5,
          tilt = name == "softmax_plus" and -0.04 or nil }, list))
        for n = 1, #list do
          assert.is_true(error[n] < 0.01)
          assert_mean(1, mean[n], error[n], ("pair %d"):format(n))
        end
      end)
    end
  end

  it("would show a bias of 5 %", function()
    local x = ratios({ map = "softmax", m = m, rows = "orthogonal", seed = 5 }, list)
    local mean, error = moments(x * 1.05)
    assert.is_true(mean[1] - 1 > 4.5 * error[1])
  end)

  it("of softmax_reg is below exp(x.y), by its formula and within its bound", function()
    local mean, error = moments(ratios({ map = "softmax_reg", m = m, seed = 6 }, list))
    for n, p in ipairs(list) do
      assert_mean(regular_mean(d, p.s), mean[n], error[n], "softmax_reg")
      assert.is_true(mean[n] <= 1 and mean[n] >= 1 - 2 * d ^ (-1 / 3))
    end
  end)
end)

-- ---- mean squared errors ---------------------------------------------------------------

describe("the mean squared error for independent rows", function()
  local d, m = 8, 8
  local list = { pair(d, 0.25, 0.3), pair(d, 0.6, 0.1), pair(d, 1, 0.5) }

  for _, name in ipairs(unbiased) do
    it("is the closed form: " .. name, function()
      local A = name == "softmax_plus" and -0.05 or nil
      local mean, error = squared_errors({ map = name, m = m, rows = "iid", seed = 11, tilt = A },
        list)
      for n, p in ipairs(list) do
        local want = formulas[name](m, p, A)
        assert.is_true(error[n] < 0.06 * want)
        assert_mean(want, mean[n], error[n], ("%s at |z|^2 = %g"):format(name, p.s))
      end
    end)
  end

  it("falls as 1/m: its root as m^(-1/2), from m = 16 to 1024", function()
    local sums = { n = 0, x = 0, y = 0, xx = 0, xy = 0 }
    for _, width in ipairs { 16, 64, 256, 1024 } do
      local mean = squared_errors({ map = "softmax", m = width, rows = "iid", seed = 12 + width,
        draws = 1024 }, { list[3] })
      local x, y = math.log(width), 0.5 * math.log(mean[1])
      sums.n, sums.x, sums.y = sums.n + 1, sums.x + x, sums.y + y
      sums.xx, sums.xy = sums.xx + x * x, sums.xy + x * y
    end
    local slope = (sums.n * sums.xy - sums.x * sums.y) / (sums.n * sums.xx - sums.x ^ 2)
    note("error against m: slope %.3f", slope)
    assert.are.near(-0.5, slope, 0.04)
  end)
end)

describe("orthogonal rows", function()
  it("err less than independent ones for m <= d, |z|^2 <= 1, and within the bound", function()
    for _, d in ipairs { 4, 16 } do
      for _, m in ipairs { 2, d } do
        local list = { pair(d, 0.1, 0.2), pair(d, 0.5, 0.1), pair(d, 1, 0.3) }
        local ort, e_ort = squared_errors({ map = "softmax", m = m, rows = "orthogonal",
          seed = 21 + d }, list)
        local iid, e_iid = squared_errors({ map = "softmax", m = m, rows = "iid", seed = 31 + d },
          list)
        for n, p in ipairs(list) do
          -- Both sides over SM^2; the first term of the bound is exact.
          local gain = 2 * (m - 1) / (m * (d + 2)) *
            (1 - math.exp(-(p.xx + p.yy) / 2 - p.xy)) ^ 2
          local bound = formulas.softmax(m, p) - gain
          assert.is_true(ort[n] <= bound + 4.5 * e_ort[n], ("d %d m %d |z|^2 %g: %.4g, bound %.4g")
            :format(d, m, p.s, ort[n], bound))
          local both = math.sqrt(e_ort[n] ^ 2 + e_iid[n] ^ 2)
          assert.is_true(ort[n] < iid[n] + (m < d and 2 or 0) * both,
            ("d %d m %d |z|^2 %g: %.4g, independent %.4g"):format(d, m, p.s, ort[n], iid[n]))
        end
      end
    end
  end)
end)

-- ---- at equal cost ---------------------------------------------------------------------

--- Two measured relative MSEs for a table of |z|^2, at equal width of the features.
local function compare_at(better, worse, list)
  local a, ea = squared_errors(better, list)
  local b, eb = squared_errors(worse, list)
  local parts, factors = {}, {}
  for n, p in ipairs(list) do
    factors[n] = b[n] / a[n]
    local error = factors[n] * math.sqrt((ea[n] / a[n]) ^ 2 + (eb[n] / b[n]) ^ 2)
    parts[n] = ("%.2f +- %.2f at |z|^2 = %g"):format(factors[n], error, p.s)
  end
  return table.concat(parts, ", "), factors
end

describe("at equal cost", function()
  local d, r = 16, 16
  local list = { pair(d, 0.25, 0.2), pair(d, 1, 0.2), pair(d, 2, 0.2), pair(d, 3, 0.2) }

  it("softmax_hyp of m / 2 projections errs less than softmax of m", function()
    for _, kind in ipairs { "iid", "orthogonal" } do
      local text, factor = compare_at({ map = "softmax_hyp", m = r // 2, rows = kind, seed = 41 },
        { map = "softmax", m = r, rows = kind, seed = 42 }, list)
      note("MSE of softmax over softmax_hyp, %d features each, %s rows: %s", r, kind, text)
      if kind == "iid" then
        for n, p in ipairs(list) do
          local want = 1 / (1 - math.exp(-p.s))
          assert.are.near(1, factor[n] / want, 0.35, "|z|^2 = " .. p.s)
          if p.s <= 1 then assert.is_true(factor[n] > 1.2) end
        end
      end
    end
  end)

  it("softmax_plus errs less than softmax where |z|^2 is large", function()
    for n, p in ipairs(list) do
      local A = best_tilt(d, p.s)
      local text, factor = compare_at({ map = "softmax_plus", m = r, rows = "iid", seed = 43,
        tilt = A }, { map = "softmax", m = r, rows = "iid", seed = 44 }, { p })
      note("MSE of softmax over softmax_plus, A = %.4f: %s (formula %.2f)", A, text,
        formulas.softmax(r, p) / formulas.softmax_plus(r, p, A))
      assert.is_true(formulas.softmax_plus(r, p, A) <= formulas.softmax(r, p))
      if n >= 2 then assert.is_true(factor[1] > 1) end
    end
  end)

  it("rows of a simplex are no worse than orthogonal ones", function()
    local text, factor = compare_at({ map = "softmax", m = r, rows = "simplex", seed = 45 },
      { map = "softmax", m = r, rows = "orthogonal", seed = 46 }, list)
    note("MSE of orthogonal over simplex rows, %d features: %s", r, text)
    assert.is_true(factor[1] > 0.9)
  end)

  it("rows of a simplex err as foretold, where few rows are far from a right angle", function()
    for width = 2, 4 do
      local x = pf.full({ 1, 1, 1, width }, 0.5 / math.sqrt(width)) -- |x + y| = 1
      local kernel = pf.kernel.softmax { head_dim = width, features = width, rows = "simplex",
                                         scale = 1, per_head = false, seed = 7 }
      local told = require "performer.core".survey_kernel(kernel, x, x, { draws = 20000 })[1]
      local gap = math.abs(told.measured_rel_mse - told.mean.coupled_rel_mse)
      assert.is_true(gap < 4 * told.measured_deviation)
      assert.is_true(told.measured_deviation < 0.06 * told.measured_rel_mse)
      assert.is_true(told.mean.coupled_rel_mse < 0.7 * told.mean.rel_mse)
    end
  end)
end)

-- ---- the paper's setting ---------------------------------------------------------------

--- Median over heads of the relative squared error of the attention's output.
local function output_error(o, q, k, v, exact)
  local kernel = pf.kernel[o.map] { head_dim = q:size(-1), features = o.m, seed = o.seed }
  local gap = pf.attention.favor(q, k, v, { kernel = kernel }) - exact
  local heads = q:size(2)
  local function square(x) return (x * x):reshape(heads, -1):mean(2) end
  local errors, size = square(gap):totable(), square(exact):totable()
  for h = 1, heads do errors[h] = errors[h] / size[h] end
  table.sort(errors)
  return errors[(heads + 1) // 2]
end

describe("in the paper's setting, L = 4096 and d = 16,", function()
  local L, d, H = 4096, 16, 7

  it("positive features beat trigonometric ones at E|x|^2 = 4, and lose at 0.25", function()
    pf.seed(2)
    for _, square in ipairs { 4, 0.25 } do
      -- x = d^(-1/4) q.
      local size = math.sqrt(square / d) * d ^ 0.25
      local q, k = pf.randn(1, H, L, d) * size, pf.randn(1, H, L, d) * size
      local v = pf.randn(1, H, L, d)
      local exact = pf.attention.exact(q, k, v)
      for _, m in ipairs { 64, 256 } do
        local plus = output_error({ map = "softmax", m = m, seed = 51 }, q, k, v, exact)
        -- As many features: two a projection.
        local trig = output_error({ map = "softmax_trig", m = m // 2, seed = 52 }, q, k, v, exact)
        note("E|x|^2 = %g, %d features: relative MSE of the output, positive %.3g, " ..
          "trigonometric %.3g", square, m, plus, trig)
        if square > 1 then
          assert.is_true(plus < trig)
        else
          assert.is_true(trig < plus)
        end
      end
    end
  end)
end)
