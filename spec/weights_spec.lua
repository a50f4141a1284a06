-- weights_spec.lua - the softmax between positions without its values: log-partitions, weights
-- of chosen rows, columns and pairs, and pointing. Held against double precision in plain Lua
-- and against attention with one-hot values; loops over the registry of feature maps.
local pf = require "performer"
local array = require "spec.support.array"
local oracle = require "spec.support.oracle"
local trial = require "spec.support.trial"
require "spec.support"

local D = trial.D
local i32 = { dtype = "i32" }
local largest, assert_sane = trial.largest, trial.assert_sane

it("of a kind without a kernel is told so, whatever was given for one", function()
  local x = pf.zeros(1, 2, 3, 4)
  for _, kernel in ipairs { "relu", pf.kernel.relu {}, { scale = 1 } } do
    local options = { attention = "exact", kernel = kernel, rows = { 1 } }
    local said = "exact attention takes no kernel"
    assert.raises(said, function() pf.attention.weights(x, x, options) end)
    options.rows = nil
    assert.raises(said, function() pf.attention.log_partition(x, x, options) end)
    options.head_dim = 4
    assert.raises(said, function() pf.attention.state(options) end)
  end
end)

-- ---- log-partitions -------------------------------------------------------------------

describe("log_partition", function()
  local function call(a, q, k, o)
    local options = { kernel = a.exact and "exact" or a.kernel }
    for name, value in pairs(o or {}) do options[name] = value end
    return pf.attention.log_partition(q, k, options)
  end

  for _, a in ipairs(trial.attentions()) do
    it("of " .. a.name .. " equals its definition at every length, and stays causal", function()
      for _, L in ipairs { 1, 127, 128, 129, 300 } do
        local Q, K = trial.inputs(1, L, L)
        local q, k = trial.tensors(Q, K)
        for _, causal in ipairs { false, true } do
          local want = oracle.log_partition({ q = Q, k = K, projection = a.W },
            { map = a.map, attention = a.exact and "exact", causal = causal })[1]
          assert.near_tensor(array.tensor(want), call(a, q, k, { causal = causal }), 1e-5)
        end
      end
      local q, k = trial.tensors(trial.inputs(2, 150, 9))
      local before = call(a, q, k, { causal = true })
      local worse = pf.concat({ k:slice(3, 1, 70), k:slice(3, 71, 150) * (0 / 0) }, 3)
      local after = call(a, q, worse, { causal = true })
      assert.equal(before:slice(3, 1, 70):tobytes(), after:slice(3, 1, 70):tobytes())
      -- A neighbour's NaN stays there; masked keys may hold anything.
      local mixed = pf.concat({ k:slice(1, 1, 1), worse:slice(1, 2, 2) }, 1)
      assert.equal(call(a, q, k):slice(1, 1, 1):tobytes(),
        call(a, q, mixed):slice(1, 1, 1):tobytes())
      local mask = pf.concat({ pf.ones(2, 70), pf.zeros(2, 80) }, 2)
      assert.near_tensor(call(a, q, k:slice(3, 1, 70)), call(a, q, worse, { mask = mask }), 1e-6)
      local none = call(a, q, k, { mask = pf.zeros(2, 150) })
      assert.equal(-math.huge, none:max():item())
    end)

    it("of " .. a.name .. " has its gradient, and 0 where no key is left", function()
      -- Away from 0, where some maps have a kink; behind a projection it lies elsewhere.
      local random, shape = array.random(4), { 2, trial.H, 9, D }
      local q, k = trial.tensors(random:away(shape, 0.3), random:away(shape, 0.3))
      local mask = array.tensor(trial.holes(2, 9))
      for _, causal in ipairs(a.name == "relu, projected" and {} or { false, true }) do
        local first = pf.concat({ pf.ones(2, 1, i32), mask:slice(2, 2, 9) }, 2)
        local report = pf.check.gradient(function(x, y)
          return (call(a, x, y, { causal = causal, mask = first }) * 0.3):sin():sum()
        end, { q, k })
        assert.is_true(report.worst < 5e-3, ("%s: %g"):format(a.name, report.worst))
      end
      q:requires_grad() k:requires_grad()
      do
        local tape <close> = pf.tape()
        tape:backward(call(a, q, k, { mask = pf.zeros(2, 9) }):maximum(-1):sum())
      end
      assert.equal(0, largest(q:grad()) + largest(k:grad()))
    end)
  end

  it("is sane, with its gradients, for lengths from 1e-3 to 1e3", function()
    for _, a in ipairs(trial.attentions()) do
      for _, scale in ipairs { 1e-3, 1e3 } do
        for _, causal in ipairs { false, true } do
          local q, k = trial.tensors(trial.inputs(1, 140, 6, scale))
          q:requires_grad() k:requires_grad()
          local z
          do
            local tape <close> = pf.tape()
            local y = call(a, q, k, { causal = causal })
            z = y:detach()
            tape:backward(y:maximum(-1e30):sum())
          end
          -- exp(u) of u = 1e3 is out of range, with no shift to save it.
          if a.map ~= "exp" then assert_sane(z) end
          if a.name:match "^softmax" or a.exact then
            assert.is_true(largest(q:grad()) < math.huge and largest(k:grad()) < math.huge)
          end
        end
      end
    end
  end)
end)

-- ---- weights --------------------------------------------------------------------------

describe("weights", function()
  local L = 140

  --- All weights (B, H, L, L), from attention with one-hot values.
  local function table_of(a, q, k, o)
    local hot = {}
    for i = 1, L do
      hot[i] = {}
      for j = 1, L do hot[i][j] = i == j and 1 or 0 end
    end
    local v = pf.tensor(hot):reshape(1, 1, L, L) + pf.zeros(2, trial.H, 1, 1)
    return trial.attend(a, q, k, v, o):totable()
  end

  for _, a in ipairs(trial.attentions()) do
    it("of " .. a.name .. " equal attention with one-hot values", function()
      local q, k = trial.tensors(trial.inputs(2, L, 12))
      local mask = array.tensor(trial.holes(2, L))
      local rows_chosen, columns = { 140, 1, 77, 77, 20 }, { 3, 139, 50, 1 }
      for _, o in ipairs { {}, { causal = true, mask = mask } } do
        local all = table_of(a, q, k, o)
        local function ask(more)
          more.kernel = a.exact and "exact" or a.kernel
          more.causal, more.mask = o.causal, o.mask
          return pf.attention.weights(q, k, more)
        end
        local function assert_all(got, shape, pick)
          assert.are.same(shape, { table.unpack(got:shape()) })
          local want = array.new(shape, function(n)
            local at, rest = {}, n - 1
            for dim = #shape, 1, -1 do
              at[dim], rest = rest % shape[dim] + 1, rest // shape[dim]
            end
            local i, j = pick(at[3], at[4])
            return all[at[1]][at[2]][i][j]
          end)
          assert.near_tensor(array.tensor(want), got, 2e-5)
        end
        local by_row = ask { rows = rows_chosen }
        assert_all(by_row, { 2, trial.H, 5, L }, function(i, j) return rows_chosen[i], j end)
        assert_all(ask { columns = columns }, { 2, trial.H, L, 4 },
          function(i, j) return i, columns[j] end)
        assert_all(ask { rows = rows_chosen, columns = columns }, { 2, trial.H, 5, 4 },
          function(i, j) return rows_chosen[i], columns[j] end)
        local chosen = { { 140, 3 }, { 7, 139 }, { 60, 50 }, { 1, 1 }, { 60, 2 } }
        assert_all(ask { pairs = chosen }, { 2, trial.H, 5 },
          function(n) return chosen[n][1], chosen[n][2] end)

        local top, positions, entropy = ask { rows = rows_chosen, top = 6, entropy = true }
        local w, at, h = top:totable(), positions:totable(), entropy:totable()
        for b = 1, 2 do
          for head = 1, trial.H do
            for n, i in ipairs(rows_chosen) do
              local row, sum = {}, 0
              for j, p in ipairs(all[b][head][i]) do
                row[j] = p
                if p > 0 then sum = sum - p * math.log(p) end
              end
              table.sort(row, function(x, y) return x > y end)
              for t = 1, 6 do
                local j = at[b][head][n][t]
                assert.near(row[t], w[b][head][n][t], 1e-5)
                assert.near(j > 0 and all[b][head][i][j] or 0, w[b][head][n][t], 1e-5)
                if i == 1 and o.causal and t > 1 then assert.equal(0, j) end -- one key is seen
              end
              assert.near(sum, h[b][head][n], 1e-4)
            end
          end
        end
      end
    end)
  end

  it("take a custom kernel, lists as tensors, and fewer keys than queries", function()
    local mine = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    local q, k = trial.tensors(trial.inputs(1, 20, 3))
    k = k:slice(3, 1, 7)
    local w = pf.attention.weights(q, k, { kernel = mine, rows = pf.tensor({ 20, 2 }, i32) })
    assert.near_tensor(pf.attention.weights(q, k, { kernel = "elu", rows = { 20, 2 } }), w, 1e-6)
    assert.near_tensor(pf.ones(1, trial.H, 2), w:sum(-1), 1e-6)
    local some = pf.attention.weights(q, k, { kernel = mine,
      pairs = pf.tensor({ { 20, 1 }, { 2, 7 } }, i32) })
    assert.near_tensor(w:slice(3, 1, 1):slice(4, 1, 1):reshape(1, trial.H),
      some:slice(3, 1, 1):reshape(1, trial.H), 1e-6)
  end)

  it("need linear memory", function()
    local n = 20000
    local q, k = pf.randn(1, 1, n, D), pf.randn(1, 1, n, D)
    local kernel = pf.kernel.softmax { head_dim = D, features = 16, seed = 1 }
    kernel:projection(D, 1)
    collectgarbage()
    local before = pf.memory().live
    pf.reset_peak()
    pf.attention.weights(q, k, { kernel = kernel, rows = { 5, n }, top = 3, entropy = true })
    pf.attention.weights(q, k, { kernel = kernel, columns = { 5, n }, causal = true })
    pf.attention.weights(q, k, { kernel = kernel, pairs = { { n, 1 } }, causal = true })
    assert.is_true(pf.memory().peak - before < 4 * 2 * n * 8 + 4e6)
  end)

  it("say what is wrong", function()
    local q, k = trial.tensors(trial.inputs(1, 20, 3))
    local function fails(text, options)
      options.kernel = options.kernel or "elu"
      assert.raises(text, function() pf.attention.weights(q, k, options) end)
    end
    fails("choose rows", {})
    fails("position 21 of 20", { rows = { 3, 21 } })
    fails("count from 1", { columns = { 0 } })
    fails("top is for rows alone, in 1 .. 20", { rows = { 3 }, top = 21 })
    fails("top must be at least 1", { rows = { 3 }, top = 0 })
    fails("pairs, or rows", { rows = { 3 }, pairs = { { 1, 1 } } })
    fails("pair 2 is not", { pairs = { { 1, 1 }, { 2 } } })
    fails("entropy is of whole rows", { columns = { 3 }, entropy = true })
    fails("mask is %[2, 20%], must be %[1, 20%]", { rows = { 3 }, mask = pf.ones(2, 20) })
    fails("did you mean 'rows'", { row = { 3 } })
    assert.raises("q is %[1, 2, 20, 6%], k is %[1, 2, 19, 6%]", function()
      pf.attention.weights(q, k:slice(3, 1, 19), { kernel = "elu", rows = { 1 }, causal = true })
    end)
  end)
end)

-- ---- pointing -------------------------------------------------------------------------

describe("pointer", function()
  local kernel = pf.kernel.softmax { head_dim = D, features = 64, seed = 9 }
  local mine = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
  local function inputs(Lq, Lk)
    return trial.tensors(array.random(31):normals { 2, Lq, D },
      array.random(32):normals { 2, Lk, D })
  end
  local targets = pf.tensor({ { 3, 7, 0, 1 }, { 2, 5, 6, 0 } }, i32)
  local mask = pf.tensor({ { 1, 1, 1, 0, 1, 1, 1 }, { 1, 0, 1, 1, 1, 1, 1 } }, i32)

  --- log p of the targets picked from the large array.
  local function picked(all)
    local want, t = all:totable(), targets:totable()
    for b = 1, 2 do
      for i = 1, 4 do
        local j = t[b][i]
        want[b][i] = j == 0 and 0 or want[b][i][j]
      end
    end
    return pf.tensor(want)
  end

  it("gives log p of all keys or of the targets alone", function()
    local q, k = inputs(4, 7)
    for _, way in ipairs { { "exact" }, { kernel }, { kernel, "exact" }, { mine }, { "relu" } } do
      for _, m in ipairs { false, mask } do
        local options = { kernel = way[1], score = way[2], mask = m or nil }
        local all = pf.attention.pointer(q, k, options)
        assert.are.same({ 2, 4, 7 }, { table.unpack(all:shape()) })
        options.targets = targets
        local some = pf.attention.pointer(q, k, options)
        assert.near_tensor(picked(all), some, 1e-5)
        if m then -- target 2 of item 2 is masked
          assert.equal(-math.huge, all:slice(1, 2, 2):slice(2, 1, 1):slice(3, 2, 2):item())
        end
        if not way[2] then assert.near_tensor(pf.ones(2, 4), all:exp():sum(-1), 1e-5) end
      end
    end
    local scores = q:matmul(k:transpose(2, 3)) / math.sqrt(D)
    assert.near_tensor(scores:log_softmax(-1),
      pf.attention.pointer(q, k, { kernel = "exact" }), 1e-5)
    local exact = { name = "exact", scale = 1 }
    assert.near_tensor(q:matmul(k:transpose(2, 3)):log_softmax(-1),
      pf.attention.pointer(q, k, { kernel = exact }), 1e-5)
  end)

  it("has its gradients", function()
    local q, k = inputs(4, 7)
    local safe = pf.tensor({ { 1, 1, 1, 0, 1, 1, 1 }, { 1, 1, 1, 0, 1, 1, 1 } }, i32)
    for _, o in ipairs { { kernel = "exact" }, { kernel = kernel }, { kernel = mine },
                         { kernel = kernel, score = "exact" }, { kernel = "sigmoid" } } do
      o.mask = safe
      for _, wanted in ipairs { targets, false } do
        o.targets = wanted or nil
        local report = pf.check.gradient(function(x, y)
          return pf.attention.pointer(x, y, o):exp():square():sum()
        end, { q, k })
        assert.is_true(report.worst < 5e-3, tostring(report.worst))
      end
    end
  end)

  it("is -inf, with gradients 0, where no key is left", function()
    local q, k = inputs(4, 7)
    local empty = pf.tensor({ { 0, 0, 0, 0, 0, 0, 0 }, { 1, 1, 1, 1, 1, 1, 1 } }, i32)
    q:requires_grad()
    do
      local tape <close> = pf.tape()
      local p = pf.attention.pointer(q, k, { kernel = kernel, mask = empty, targets = targets })
      local t = p:totable()
      assert.are.same({ -math.huge, -math.huge, 0, -math.huge }, t[1])
      assert_sane(p)
      local all = pf.attention.pointer(q, k, { kernel = kernel, mask = empty })
      assert.equal(-math.huge, all:slice(1, 1, 1):max():item())
      tape:backward(p:maximum(-50):sum() + all:maximum(-50):sum())
    end
    assert.equal(0, largest(q:grad():slice(1, 1, 1)))
    assert.is_true(largest(q:grad():slice(1, 2, 2)) > 0)
  end)

  it("says what is wrong", function()
    local q, k = inputs(4, 7)
    local function fails(text, options)
      assert.raises(text, function() pf.attention.pointer(q, k, options) end)
    end
    fails("positions 1 to 7", { kernel = kernel, targets = pf.full({ 2, 4 }, 8, i32) })
    fails("positions 1 to 7", { kernel = kernel, targets = pf.full({ 2, 4 }, -1, i32) })
    fails("targets is %[2, 3%] i32, must be %[2, 4%]", { kernel = kernel,
      targets = pf.zeros(2, 3, i32) })
    fails("exact scores need a softmax kernel, this is relu", { kernel = "relu", score = "exact" })
    fails("score is", { kernel = kernel, score = true })
    assert.raises("q must be %(B, Lq, d%)", function() pf.attention.pointer(pf.randn(4, D), k) end)
  end)
end)
