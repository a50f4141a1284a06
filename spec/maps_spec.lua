-- maps_spec.lua - the feature maps: features against formulas of their own, options and presets,
-- gradients, eps in softmax maps, large inputs. What every map must hold as an attention is in
-- attention_spec.lua, extremes_spec.lua and attention_close_test.c; kernels in models are in
-- kernels_spec.lua.
local pf = require "performer"
local array = require "spec.support.array"
local judge = require "spec.support.attention"
require "spec.support"

local nn = pf.nn
local maps = pf.kernels().maps
local B, H, L, D, M = 1, 2, 9, 6, 10

--- f(u) of the generalised maps, and the largest error of the engine's features.
local formulas = {
  relu = function(u) return math.max(u, 0) end,
  elu = function(u) return u > 0 and u + 1 or math.exp(u) end,
  exp = math.exp,
  sigmoid = function(u) return 1 / (1 + math.exp(-u)) end,
  tanh = function(u) return (math.exp(2 * u) - 1) / (math.exp(2 * u) + 1) end,
  abs = math.abs, cos = math.cos, sin = math.sin,
  identity = function(u) return u end,
  square = function(u) return u ^ 2 end,
  requ = function(u) return math.max(u, 0) ^ 2 end,
  gelu = function(u) -- u times the integral of the density, by Simpson's rule
    local n, sum = 400, 0
    for i = 0, n do
      local t = u * i / n
      local weight = (i == 0 or i == n) and 1 or i % 2 == 1 and 4 or 2
      sum = sum + weight * math.exp(-t * t / 2)
    end
    return u * (0.5 + sum * u / (3 * n) / math.sqrt(2 * math.pi))
  end,
}

--- u (list) and |x|^2 / 2 of row `at` of x, x scaled; W a list (m, d), or nil.
local function project(x, at, scale, W, m)
  local u, half = {}, 0
  for i = 1, D do half = half + (scale * x[at + i]) ^ 2 / 2 end
  for a = 1, m do
    u[a] = W and 0 or scale * x[at + a]
    for i = 1, W and D or 0 do u[a] = u[a] + scale * x[at + i] * W[(a - 1) * D + i] end
  end
  return u, half
end

--- Features of one row by the words of the documentation. o: scale, ratio, eps, tilt.
local function row_features(name, u, half, o, W)
  local f, m = {}, #u
  if formulas[name] then
    for a = 1, m do f[a] = o.ratio * formulas[name](u[a]) + o.eps end
    return f
  end
  local top, shift = -math.huge, -half
  for a = 1, m do
    if name == "softmax_trig" then
      f[a], f[m + a], top, shift = math.cos(u[a]), math.sin(u[a]), 0, half
    elseif name == "softmax_hyp" then
      f[a], f[m + a] = math.exp(u[a]), math.exp(-u[a])
      top = math.max(top, math.abs(u[a]))
    else
      local log = u[a]
      if name == "softmax_plus" then
        local square = 0
        for i = 1, D do square = square + W[(a - 1) * D + i] ^ 2 end
        log = o.tilt * square + math.sqrt(1 - 4 * o.tilt) * log
      end
      f[a], top = math.exp(log), math.max(top, log)
    end
  end
  local factor = o.ratio * (1 - 4 * o.tilt) ^ (D / 4)
  for a = 1, #f do f[a] = factor * math.exp(shift) * (f[a] + o.eps * math.exp(top)) end
  return f
end

--- Holds kernel:features against the formula. o: what the options should come to.
local function hold_features(kernel, name, o)
  local x = array.random(3):normals { B, H, L, D }
  local W = kernel:projection(D, H)
  local m, list = W and W:size(-2) or D, W and array.of(W)
  local got = array.of(kernel:features(array.tensor(x), "key"))
  local r = #got // (B * H * L)
  for row = 0, B * H * L - 1 do
    local own
    if W then
      own = {}
      local first = W:rank() == 3 and row // L % H * m * D or 0
      for i = 1, m * D do own[i] = list[first + i] end
    end
    local u, half = project(x, row * D, o.scale, own, m)
    local want = row_features(name, u, half, o, own)
    assert.equal(#want, r)
    for a = 1, r do
      assert.near(want[a], got[row * r + a], 1e-5 * math.max(1, math.abs(want[a])), name)
    end
  end
end

local function default_ratio(map)
  if not map.name:match "^softmax" then return 1 end
  return (map.name == "softmax_hyp" and 2 * M or M) ^ -0.5
end

-- ---- features --------------------------------------------------------------------------

describe("features", function()
  for _, map in ipairs(maps) do
    it("of " .. map.name .. " are what its formula says", function()
      local softmax = map.softmax
      local plain = { scale = softmax and D ^ -0.25 or 1, ratio = default_ratio(map),
                      eps = map.eps, tilt = 0 }
      hold_features(pf.kernel[map.name] { head_dim = D, features = M, seed = 5 }, map.name, plain)
      local o = { scale = 0.6, ratio = 0.4, eps = 0.01, tilt = map.tilted and -0.2 or 0 }
      hold_features(pf.kernel[map.name] { head_dim = D, features = M, seed = 5, scale = 0.6,
        ratio = 0.4, eps = 0.01, tilt = map.tilted and -0.2 or nil }, map.name, o)
      if softmax then return end
      hold_features(pf.kernel[map.name] {}, map.name, plain)
      o.tilt = 0
      hold_features(pf.kernel[map.name] { scale = 0.6, ratio = 0.4, eps = 0.01 }, map.name, o)
    end)
  end

  it("are projected or not as `project` and `features` say", function()
    local function width(options) return pf.kernel.relu(options):settings(8).features end
    assert.equal(0, width {})
    assert.equal(20, width { features = 20 })
    assert.equal(32, width { project = true })
    assert.equal(20, width { project = true, features = 20 })
    assert.equal(0, width { project = false, features = 20 })
    assert.equal(32, pf.kernel.softmax {}:settings(8).features)
    assert.raises("projection", function() pf.kernel.softmax { project = false } end)
    assert.raises("tilt", function() pf.kernel.softmax { tilt = -0.1 } end)
    assert.raises("tilt", function() pf.kernel.softmax_plus { tilt = 0.25 } end)
    assert.raises("norm", function() pf.kernel.softmax_plus { norms = "sqrt_d" } end)
  end)

  it("of SMREG come from rows of norm sqrt(d)", function()
    local W = pf.kernel.softmax_reg { head_dim = D, features = M }:projection(D)
    local norms = (W * W):sum(-1)
    assert.is_true((norms - D):abs():max():item() < 1e-4)
  end)
end)

-- ---- presets ---------------------------------------------------------------------------

describe("presets", function()
  local d = 16

  it("authors: generalised maps plain, 1e-3 added; softmax with 1e-6 and 256 features", function()
    local relu = pf.kernel.relu { preset = "authors" }
    assert.same({ features = 0, scale = 1.0, ratio = 1.0, eps = 1e-3, tilt = 0.0 },
      relu:settings(d))
    hold_features(relu, "relu", { scale = 1, ratio = 1, eps = 1e-3 })
    hold_features(pf.kernel.elu { preset = "authors" }, "elu", { scale = 1, ratio = 1, eps = 1e-3 })
    local softmax = pf.kernel.softmax { preset = "authors" }:settings(d)
    assert.same({ 256, d ^ -0.25, 1e-6 }, { softmax.features, softmax.scale, softmax.eps })
    assert.near(1 / 16, softmax.ratio, 1e-7)
  end)

  it("pytorch: scaled and projected on d ln d features, 1e-3 added", function()
    local relu = pf.kernel.relu { preset = "pytorch", seed = 3 }
    assert.same({ features = math.floor(d * math.log(d)), scale = d ^ -0.25, ratio = 1.0,
                  eps = 1e-3, tilt = 0.0 }, relu:settings(d))
    hold_features(relu, "relu", { scale = D ^ -0.25, ratio = 1, eps = 1e-3 })
    local softmax = pf.kernel.softmax { preset = "pytorch" }:settings(d)
    assert.same({ 44, d ^ -0.25, 1e-4 }, { softmax.features, softmax.scale, softmax.eps })
  end)

  it("are defaults: what is given counts", function()
    local kernel = pf.kernel.relu { preset = "pytorch", eps = 0, scale = 2, features = 5 }
    local settings = kernel:settings(d)
    assert.same({ 5, 2.0, 0.0 }, { settings.features, settings.scale, settings.eps })
    -- The TensorFlow ReLU: no scale, m^(-1/2) when projected.
    hold_features(pf.kernel.relu { project = true, features = M, ratio = M ^ -0.5 }, "relu",
      { scale = 1, ratio = M ^ -0.5, eps = 1e-3 })
    assert.raises("authors", function() pf.kernel.relu { preset = "author" } end)
  end)

  it("work in a layer and in a state", function()
    local layer = nn.attention { dim = 12, heads = 2, causal = true,
                                 kernel = { name = "relu", preset = "pytorch" } }
    local W = layer:tensors().projection
    assert.same({ 2, math.floor(6 * math.log(6)), 6 }, { table.unpack(W:shape()) })
    local kernel = pf.kernel.relu { preset = "pytorch", head_dim = D }
    local q = pf.randn(1, 2, 5, D)
    local want = pf.attention.favor(q, q, q, { kernel = kernel, causal = true })
    local got = pf.attention.state { kernel = kernel, heads = 2 }:prefill(q, q, q)
    assert.is_true((want - got):abs():max():item() < 1e-5)
  end)
end)

-- ---- gradients -------------------------------------------------------------------------

--- Inputs that keep the denominators of maps of both signs away from 0, and a projection.
local function benign(map, projected)
  local random = array.random(17)
  local function rows()
    if map.positive then return random:normals({ B, H, L, D }, 1) end
    return random:uniforms({ B, H, L, D }, 0.2, 0.9)
  end
  local W = projected and array.fill({ M, D }, function()
    return (map.positive or map.softmax) and random:normal() or 0.1 + 0.3 * random:uniform()
  end)
  return rows(), rows(), random:normals { B, H, L, 4 }, W
end

local function differ(want, got, tolerance, what)
  local distance = array.distance(got, want, #want)
  assert.is_true(distance <= tolerance, ("%s is off by %.3g"):format(what, distance))
end

describe("attention and its gradients", function()
  for _, map in ipairs(maps) do
    for _, projected in ipairs { false, true } do
      if projected or not map.softmax then
        it(("of %s, %s, are those of the definition"):format(map.name,
            projected and "projected" or "plain"), function()
          local q, k, v, W = benign(map, projected)
          local g = array.random(8):normals(v.shape)
          local kernel = pf.kernel[map.name] { projection = W and array.tensor(W) or nil }
          for _, causal in ipairs { false, true } do
            local call = { q = q, k = k, v = v, W = W or nil, map = map.name, causal = causal }
            local tq, tk, tv = array.tensor(q), array.tensor(k), array.tensor(v)
            for _, t in ipairs { tq, tk, tv } do t:requires_grad() end
            do
              local tape <close> = pf.tape()
              local out = pf.attention.favor(tq, tk, tv, { kernel = kernel, causal = causal })
              differ(judge.forward(call), array.of(out), map.positive and 1e-5 or 2e-5, "out")
              tape:backward((out * array.tensor(g)):sum())
            end
            local wq, wk, wv = judge.backward(call, g)
            differ(wq, array.of(tq:grad()), 2e-4, "dq")
            differ(wk, array.of(tk:grad()), 2e-4, "dk")
            differ(wv, array.of(tv:grad()), 2e-4, "dv")
          end
        end)
      end
    end
  end

  --- sum(out g) of favor by the formulas, over rows 1 .. n of each head.
  local function defined(name, o, W, rows, causal, n)
    local sum, m = 0, W and M or D
    local function features_of(x, head, i)
      local own
      if W then own = { table.unpack(W, head * M * D + 1, (head + 1) * M * D) } end
      local u, half = project(x, (head * n + i) * D, o.scale, own, m)
      return row_features(name, u, half, o, own)
    end
    for head = 0, H - 1 do
      local keys = {}
      for j = 0, n - 1 do keys[j] = features_of(rows.k, head, j) end
      for i = 0, n - 1 do
        local query, den, num = features_of(rows.q, head, i), 0, 0
        for j = 0, causal and i or n - 1 do
          local weight = 0
          for a = 1, #query do weight = weight + query[a] * keys[j][a] end
          den = den + weight
          for c = 1, 4 do
            num = num + weight * rows.v[(head * n + j) * 4 + c] * rows.g[(head * n + i) * 4 + c]
          end
        end
        sum = sum + num / den
      end
    end
    return sum
  end

  it("hold with options too", function()
    local random, n = array.random(29), 4
    local rows = { q = random:normals { B, H, n, D }, k = random:normals { B, H, n, D },
                   v = random:normals { B, H, n, 4 }, g = random:normals { B, H, n, 4 } }
    for _, options in ipairs {
      { "softmax", eps = 0.05 }, { "softmax_hyp", eps = 0.05 }, { "softmax_reg", eps = 0.2 },
      { "softmax_plus", tilt = -0.15 }, { "softmax_plus", tilt = 0.05, eps = 0.02 },
      { "softmax_trig", scale = 0.2, eps = 0.3 }, { "exp", eps = 0.5 },
      { "exp", eps = 0.2, ratio = 0.3, features = M }, { "sigmoid", eps = 0.1, ratio = 3 },
      { "elu", eps = 0.1, ratio = 0.2, scale = 0.5 }, { "square", eps = 0.3, ratio = 2 },
      { "abs", eps = 0.2, features = M, ratio = M ^ -0.5 }, { "relu", eps = 0.1, ratio = 0.7 },
    } do
      local name = options[1]
      options[1], options.seed, options.head_dim = nil, 9, D
      if name:match "^softmax" then options.features = M end
      local kernel = pf.kernel[name](options)
      local o = kernel:settings(D)
      local W = kernel:projection(D, H)
      W = W and array.of(W)
      for _, causal in ipairs { false, true } do
        local t = {}
        for _, x in ipairs { "q", "k", "v" } do t[x] = array.tensor(rows[x]):requires_grad() end
        do
          local tape <close> = pf.tape()
          local out = pf.attention.favor(t.q, t.k, t.v, { kernel = kernel, causal = causal })
          tape:backward(out, array.tensor(rows.g))
        end
        for _, x in ipairs { "q", "k", "v" } do
          local got, want = array.of(t[x]:grad()), array.new(rows[x].shape)
          for i = 1, #want do
            local kept, sums = rows[x][i], {}
            for side = -1, 1, 2 do
              rows[x][i] = kept + side * 1e-6
              sums[side] = defined(name, o, W, rows, causal, n)
            end
            rows[x][i] = kept
            want[i] = (sums[1] - sums[-1]) / 2e-6
          end
          differ(want, got, 2e-4, ("%s, d%s"):format(tostring(kernel), x))
        end
      end
    end
  end)
end)

-- ---- eps, large numbers ----------------------------------------------------------------

describe("softmax maps with eps", function()
  local kernel = pf.kernel.softmax { head_dim = D, features = M, eps = 1e-2, seed = 2 }
  local q, k, v = pf.randn(1, 2, 80, D), pf.randn(1, 2, 80, D), pf.randn(1, 2, 80, D)

  it("are causal to the bit, and streams equal the whole", function()
    local before = pf.attention.favor(q, k, v, { kernel = kernel, causal = true })
    local huge = pf.concat({ k:slice(3, 1, 50), k:slice(3, 51, 80) * 20 }, 3)
    local after = pf.attention.favor(q, huge, v, { kernel = kernel, causal = true })
    assert.bits_equal(before:slice(3, 1, 50):detach(), after:slice(3, 1, 50):detach())
    local state = pf.attention.state { kernel = kernel, heads = 2 }
    local function cut(x, a, b) return x:slice(3, a, b) end
    local parts = { state:prefill(cut(q, 1, 70), cut(k, 1, 70), cut(v, 1, 70)) }
    for t = 71, 80 do parts[#parts + 1] = state:step(cut(q, t, t), cut(k, t, t), cut(v, t, t)) end
    assert.is_true((pf.concat(parts, 3) - before):abs():max():item() < 1e-5)
  end)

  it("equal those without for eps 0, and depend on it", function()
    local none = pf.kernel.softmax { head_dim = D, features = M, eps = 0, seed = 2 }
    local own = pf.kernel.softmax { head_dim = D, features = M, seed = 2 }
    local function out(of) return pf.attention.favor(q, k, v, { kernel = of }) end
    assert.bits_equal(out(own), out(none))
    assert.is_true((out(kernel) - out(own)):abs():max():item() > 1e-3)
  end)
end)

describe("large inputs", function()
  it("leave every map finite, forward and backward", function()
    for _, map in ipairs(maps) do
      for _, size in ipairs { 1e-3, 30, 1e3 } do
        local kernel = pf.kernel[map.name] { head_dim = D, features = M }
        local q, k, v = pf.randn(1, 2, 70, D) * size, pf.randn(1, 2, 70, D) * size,
          pf.randn(1, 2, 70, D)
        for _, causal in ipairs { false, true } do
          for _, t in ipairs { q, k, v } do t:clear_grad():requires_grad() end
          do
            local tape <close> = pf.tape()
            local out = pf.attention.favor(q, k, v, { kernel = kernel, causal = causal })
            assert.is_true(out:abs():max():item() < math.huge, map.name)
            tape:backward(out:sum())
          end
          for _, t in ipairs { q, k, v } do
            local most = t:grad():abs():max():item()
            assert.is_true(most < math.huge, ("%s at %g"):format(map.name, size))
          end
        end
      end
    end
  end)

  it("of sin and cos are turned by all of pi", function()
    local x = array.fill({ 1, 1, 64, 2 }, function(i) return 1e3 * i * i + 0.37 * i end)
    for _, name in ipairs { "sin", "cos" } do
      local q = array.tensor(x)
      local phi = array.of(pf.kernel[name] {}:features(q, "key"))
      local got = array.of(q[name](q))
      for i = 1, #x do
        assert.near(math[name](x[i]), phi[i], 1e-6)
        assert.near(math[name](x[i]), got[i], 1e-6)
      end
    end
  end)
end)
