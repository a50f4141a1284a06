-- advise_spec.lua - the error told beforehand: theory against Monte Carlo for every softmax map and
-- kind of rows, and advice that holds when it is followed. What models and commands make of it
-- is in advise_model_spec.lua.
local pf = require "performer"
local core = require "performer.core"
local support = require "spec.support"

local SIGMAS = 4.5 -- of a mean over independent draws, with a handful of hundred comparisons

local function softmax_maps()
  local list = {}
  for _, map in ipairs(pf.kernels().maps) do
    if map.softmax then list[#list + 1] = map end
  end
  return list
end

local function kernel_of(map, options)
  if map.tilted then options.tilt = -0.04 end
  return pf.kernel[map.name](options)
end

--- (1, 1, n, d) rows of |x| about `norm`.
local function rows(n, d, norm) return pf.randn(1, 1, n, d) * (norm * d ^ -0.5) end

-- ---- theory ----------------------------------------------------------------------------

describe("the predicted error", function()
  local d, m = 8, 20

  it("is the closed form for independent rows", function()
    local s, t, A = 1.3, 0.7, -0.06
    local function of(name, options)
      options.head_dim, options.features, options.rows = d, m, "iid"
      return pf.kernel[name](options):predict(s, t).rel_mse
    end
    assert.near((math.exp(s) - 1) / m, of("softmax", {}), 1e-12)
    assert.near(0.5 * (1 - math.exp(-s)) * (math.exp(s) - 1) / m, of("softmax_hyp", {}), 1e-12)
    assert.near(math.exp(t) * (1 - math.exp(-t)) ^ 2 / (2 * m), of("softmax_trig", {}), 1e-12)
    local square = (1 - 4 * A) ^ d * (1 - 8 * A) ^ (-d / 2) *
      math.exp(2 * (1 - 4 * A) * s / (1 - 8 * A) - s)
    assert.near((square - 1) / m, of("softmax_plus", { tilt = A }), 1e-12)
    assert.near((math.exp(s) - 1) / m, of("softmax_plus", { tilt = 0 }), 1e-12)
  end)

  it("is what Monte Carlo measures, for every softmax map and kind of rows", function()
    -- Features of 20 = 8 + 8 + 4 rows: the last block is a short one.
    pf.seed(5)
    local q, k = rows(6, d, 0.8), rows(6, d, 0.8)
    for _, map in ipairs(softmax_maps()) do
      for _, kind in ipairs { "iid", "orthogonal", "simplex" } do
        local kernel = kernel_of(map, { head_dim = d, features = m, rows = kind, scale = 1,
                                        seed = 11 })
        local r = pf.attention.compare(kernel, { q = q, k = k, v = k, draws = 6000 }).heads[1]
        local what = map.name .. ", " .. kind
        local gap = math.abs(r.measured_rel_mse - r.coupled_rel_mse)
        assert.is_true(gap <= SIGMAS * r.measured_deviation, ("%s: predicted %.4g, measured %.4g "
          .. "+- %.2g"):format(what, r.coupled_rel_mse, r.measured_rel_mse, r.measured_deviation))
        -- The test can see differences: it is no test of nothing.
        assert.is_true(SIGMAS * r.measured_deviation < r.coupled_rel_mse, what)
        local off = r.bias - r.predicted_bias
        assert.is_true(math.abs(off * r.bias_sigma) <= SIGMAS * math.abs(r.bias), what .. ": bias")
        assert.equal(map.regular, r.predicted_bias ~= 0)
        if kind == "iid" then
          assert.equal(r.predicted_rel_mse, r.coupled_rel_mse)
        else
          assert.is_true(r.coupled_rel_mse < r.predicted_rel_mse, what)
          assert.is_true(r.measured_rel_mse < r.predicted_rel_mse, what .. ", measured")
        end
      end
    end
  end)

  it("does not reach for what it can't know, and stays finite", function()
    local kernel = pf.kernel.softmax { head_dim = 64, features = 256 }
    assert.equal(1e300, kernel:predict(1e9).rel_mse)
    assert.equal(0, kernel:predict(0).rel_mse)
    assert.near((math.exp(16) - 1) / 256, kernel:predict(16).rel_mse, 1)
    assert.raises("estimates no softmax", function() pf.kernel.relu {}:predict(1) end)
    assert.raises("head_dim is needed", function() pf.kernel.softmax {}:predict(1) end)
    assert.raises("must be numbers from 0", function() kernel:predict(-1) end)
    local nan = pf.full({ 1, 1, 2, 64 }, 0 / 0)
    local head = core.survey_kernel(pf.kernel.softmax {}, nan, nan, {})[1]
    assert.equal(1e300, head.mean.rel_mse)
    assert.equal(0, core.survey_kernel(pf.kernel.softmax {}, pf.zeros(0, 1, 3, 8),
      pf.zeros(0, 1, 3, 8), { draws = 2 })[1].pairs)
  end)

  it("foretells the error of a given projection as that of independent rows", function()
    local given = pf.kernel.softmax { projection = pf.randn(16, 16) }:predict(1)
    assert.near((math.exp(1) - 1) / 16, given.rel_mse, 1e-6)
    assert.equal(given.rel_mse, given.coupled_rel_mse)
    local drawn = pf.kernel.softmax { features = 16, head_dim = 16 }:predict(1)
    assert.near(given.rel_mse, drawn.rel_mse, 1e-9)
    assert.is_true(drawn.coupled_rel_mse < 0.09)
  end)
end)

-- ---- compare ---------------------------------------------------------------------------

describe("attention.compare", function()
  it("tells every head apart", function()
    pf.seed(2)
    local q = pf.concat({ pf.randn(2, 1, 40, 16) * 0.3, pf.randn(2, 1, 40, 16) }, 2)
    local v = pf.randn(2, 2, 40, 16)
    local kernel = pf.kernel.softmax { head_dim = 16, features = 64, seed = 3 }
    for _, causal in ipairs { false, true } do
      local report = pf.attention.compare(kernel, { q = q, k = q, v = v, causal = causal })
      local small, large = report.heads[1], report.heads[2]
      assert.is_true(small.sum < 0.2 * large.sum)
      assert.is_true(small.predicted_rel_mse < 0.1 * large.predicted_rel_mse)
      assert.is_true(small.error < large.error and small.rms_error < large.rms_error)
      assert.equal(report.error, large.error)
      assert.near(small.query, (q:slice(2, 1, 1) ^ 2):sum(-1):mean():item() / 4, 0.1)
      assert.equal(2 * 32 * (causal and 33 / 2 or 32), small.pairs)
      assert.is_true(report.ms > 0 and report.exact_ms > 0)
      assert.matches("predicted", tostring(report))
    end
  end)

  it("judges a kernel by the scale that it has", function()
    pf.seed(3)
    local q, v = pf.randn(1, 1, 16, 8) * 0.3, pf.randn(1, 1, 16, 8)
    local kernel = pf.kernel.softmax { head_dim = 8, features = 8192, scale = 0.9, seed = 1 }
    assert.is_true(pf.attention.compare(kernel, { q = q, k = q, v = v, draws = 2 }).error < 0.1)
  end)

  it("measures a given projection, and says nothing of maps that estimate nothing", function()
    pf.seed(4)
    local given = pf.kernel.softmax { projection = pf.randn(32, 8) }
    local head = pf.attention.compare(given, { length = 20, dim = 8 }).heads[1]
    assert.is_true(head.measured_rel_mse > 0)
    assert.equal(0, head.bias_sigma)
    for _, kernel in ipairs { pf.kernel.relu {}, pf.kernel.custom {
      map = function(x) return x:elu() + 1 end } } do
      local report = pf.attention.compare(kernel, { length = 20, dim = 8, heads = 2 })
      assert.is_nil(report.predicted_rel_mse)
      assert.is_nil(report.bias_sigma)
      assert.is_true(report.error > 0)
    end
    assert.raises("q, k and v go together", function()
      pf.attention.compare("softmax", { q = pf.ones(1, 1, 2, 4) })
    end)
    assert.raises("k must be a tensor %(B, H, L, d%), got %[2%]", function()
      pf.attention.compare("softmax", { q = pf.ones(1, 1, 2, 4), k = pf.ones(2), v = pf.ones(1) })
    end)
  end)
end)

-- ---- advise ----------------------------------------------------------------------------

describe("kernel:advise", function()
  local d, tolerance = 32, 0.25

  --- What a kernel is off by on these rows, measured; and its standard error.
  local function measured(kernel, q, k)
    local r = pf.attention.compare(kernel, { q = q, k = k, v = k, draws = 60 })
    local sum, spread = 0, 0
    for _, head in ipairs(r.heads) do
      sum, spread = sum + head.measured_rel_mse, math.max(spread, head.measured_deviation)
    end
    return sum / #r.heads, spread / math.sqrt(#r.heads)
  end

  it("finds features and a map that hold the tolerance when followed", function()
    pf.seed(6)
    local q, k = pf.randn(1, 2, 64, d) * 1.1 * d ^ -0.25, pf.randn(1, 2, 64, d) * 1.1 * d ^ -0.25
    local kernel = pf.kernel.softmax { head_dim = d, features = 64, seed = 2 }
    local advice = kernel:advise(q, k, { tolerance = tolerance })
    assert.is_false(advice.current.meets)
    assert.is_false(advice.hopeless)
    assert.is_true(advice.meets and advice.features <= 1024 and not advice.qk_norm)
    assert.is_true(advice.predicted_error <= tolerance)
    local mse, deviation = measured(advice:kernel(), q, k)
    assert.is_true(mse - SIGMAS * deviation <= tolerance ^ 2)
    -- It is not generous either: what it holds is close, and half the features don't.
    assert.is_true(mse + SIGMAS * deviation >= 0.5 * tolerance ^ 2)
    local text = tostring(advice)
    for _, word in ipairs { "softmax_hyp", "softmax_plus", "advised: " .. advice.map } do
      assert.is_truthy(text:find(word, 1, true), text)
    end
  end)

  it("normalises queries and keys that are too long, and says that all else is hopeless", function()
    pf.seed(7)
    local q, k = pf.randn(1, 2, 64, d) * 3 * d ^ -0.25, pf.randn(1, 2, 64, d) * 3 * d ^ -0.25
    local kernel = pf.kernel.softmax { head_dim = d, features = 256, seed = 2 }
    local advice = kernel:advise(q, k, { tolerance = 0.35 })
    assert.is_true(advice.hopeless and advice.qk_norm and advice.meets)
    local scales, relu = 0, false
    for _, entry in ipairs(advice.candidates) do
      relu = relu or entry.map == "relu"
      if entry.factor then
        scales = scales + 1
        assert.is_true(entry.meets and entry.factor < 1)
        local mse, deviation = measured(pf.kernel[entry.map] { head_dim = d, seed = 9,
          features = entry.features, scale = entry.scale, tilt = entry.tilt }, q, k)
        assert.is_true(mse - SIGMAS * deviation <= 0.35 ^ 2)
      end
    end
    assert.equal(1, scales)
    assert.is_true(relu)
    -- As a layer's qk_norm does: |x|^2 = 2.
    local ones = pf.full({ d }, 2 ^ 0.5 * d ^ -0.25)
    local mse, deviation = measured(advice:kernel(), q:rmsnorm(ones), k:rmsnorm(ones))
    assert.is_true(mse - SIGMAS * deviation <= 0.35 ^ 2)
    assert.matches("says nothing of softmax", tostring(advice))
  end)

  it("refuses what it can't advise on", function()
    local q = pf.ones(1, 1, 4, 8)
    local kernel = pf.kernel.softmax { head_dim = 8 }
    assert.raises("estimates no softmax", function() pf.kernel.relu {}:advise(q, q) end)
    assert.raises("queries and keys are needed", function() kernel:advise(q) end)
    assert.raises("tolerance must be more than 0", function()
      kernel:advise(q, q, { tolerance = 0 })
    end)
    assert.raises("did you mean 'tolerance'", function() kernel:advise(q, q, { toleranze = 1 }) end)
  end)
end)

-- ---- the commands ----------------------------------------------------------------------

describe("performer bench", function()
  it("features prints every softmax map, predicted and measured", function()
    local code, out, err = support.performer("bench features --json --head-dim 8 --features 16 "
      .. "--norm 1 --draws 400")
    assert.equal(0, code, err)
    local maps = {}
    for line in out:gmatch "[^\n]+" do
      local r = pf.json.decode(line)
      maps[r.kernel] = (maps[r.kernel] or 0) + 1
      local gap = math.abs(r.measured_rel_mse - r.coupled_rel_mse)
      assert.is_true(gap <= SIGMAS * r.measured_deviation, line)
      if r.predicted_bias == 0 then
        assert.is_true(math.abs(r.bias_sigma) < SIGMAS, line)
        assert.is_true(math.abs(r.bias_sigma_negative) < SIGMAS, line)
      end
    end
    for _, map in ipairs(softmax_maps()) do assert.equal(3, maps[map.name], map.name) end
    assert.equal(2, (support.performer "bench features --kernel relu"))
  end)
end)
