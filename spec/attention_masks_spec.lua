-- attention_masks_spec.lua - who sees whom: staircases (limits), prefixes, documents by offsets,
-- grouped keys and values. Each against the definition in double precision, and to the bit
-- against what it must equal: plainly causal attention, the same documents by number, the same
-- queries in another order. Every map of any sign is held in spec/c/attention_close_test.c.
local pf = require "performer"
local array = require "spec.support.array"
local judge = require "spec.support.attention"
local support = require "spec.support"
local trial = require "spec.support.trial"

local C, H, D, DV = trial.C, trial.H, trial.D, trial.DV
local attend, tensors, gradients = trial.attend, trial.tensors, trial.gradients
local assert_close = trial.assert_close

local function counts(list, ...)
  return array.new({ ... }, function(i) return list[i] end, "i32")
end
local function with(t, more)
  local all = {}
  for key, value in pairs(t) do all[key] = value end
  for key, value in pairs(more) do all[key] = value end
  return all
end

--- Queries (B, H, Lq, D), keys (B, Hk, Lk, D), values and cotangents, as arrays.
local function inputs(B, Lq, Lk, Hk, seed)
  local random = array.random(seed)
  return random:normals { B, H, Lq, D }, random:normals { B, Hk, Lk, D },
    random:normals { B, Hk, Lk, DV }, random:normals { B, H, Lq, DV }
end

--- exact, softmax, and relu, the projection drawn for Hk heads.
local function attentions(Hk)
  local list = { { name = "exact", exact = true } }
  for _, name in ipairs { "softmax", "relu" } do
    local kernel = pf.kernel[name] { seed = 11, head_dim = D,
                                     features = name == "softmax" and 16 or nil }
    local W = kernel:projection(D, Hk)
    list[#list + 1] = { name = name, map = name, kernel = kernel, W = W and array.of(W) }
  end
  return list
end

local names = { "mask", "limits", "prefix", "cu_seqlens", "documents" }
local function as_tensors(o)
  local options = { causal = o.causal }
  for _, name in ipairs(names) do options[name] = o[name] and array.tensor(o[name]) end
  return options
end

--- Outputs and gradients of options o (arrays) against the judge, for every attention.
local function hold(B, Lq, Lk, o, Hk)
  Hk = Hk or H
  local q, k, v, g = inputs(B, Lq, Lk, Hk, Lq + 3 * Lk)
  for _, a in ipairs(attentions(Hk)) do
    local call = with(o, { exact = a.exact, map = a.map, W = a.W, q = q, k = k, v = v })
    local tq, tk, tv, tg = tensors(q, k, v, g)
    local out, dq, dk, dv = gradients(a, tq, tk, tv, tg, as_tensors(o))
    assert_close(judge.forward(call), array.of(out), Lq * DV, 1e-5, a.name)
    local wq, wk, wv = judge.backward(call, g)
    assert_close(wq, array.of(dq), Lq * D, 1e-4, a.name .. ": the gradient of q")
    assert_close(wk, array.of(dk), Lk * D, 1e-4, a.name .. ": the gradient of k")
    assert_close(wv, array.of(dv), Lk * DV, 1e-4, a.name .. ": the gradient of v")
  end
end

--- n counts from 0 to `most`, in no order.
local function jumping(n, most)
  local list = {}
  for i = 1, n do list[i] = (i * 37 + 5) % (most + 1) end
  return list
end

local function climbing(n, first, step)
  local list = {}
  for i = 1, n do list[i] = first + (i - 1) * step end
  return list
end

--- Runs f(attention, attend) for every attention, attend taking options as arrays.
local function each(f)
  for _, a in ipairs(attentions(H)) do
    f(a, function(q, k, v, o) return attend(a, q, k, v, as_tensors(o or {})) end)
  end
end

-- ---- staircases ------------------------------------------------------------------------

describe("limits", function()
  it("give each query its first keys, in any order", function()
    hold(2, 9, C + 7, { limits = counts(jumping(18, C + 7), 2, 9) })
    hold(1, 2 * C + 3, C + 5, { limits = counts(jumping(2 * C + 3, C + 5), 2 * C + 3) })
    hold(2, 12, 5, { limits = counts(jumping(24, 5), 2, 12),
                     mask = counts({ 1, 0, 1, 1, 1, 0, 0, 1, 1, 1 }, 2, 5) })
  end)

  it("go with documents, cut to each", function()
    local L = C + 9
    hold(1, L, L, { limits = counts(jumping(L, L), 1, L), documents = trial.runs(1, L, 29) })
  end)

  it("that climb by one are causal attention, bit for bit", function()
    local L = 2 * C + 5
    local q, k, v = tensors(inputs(1, L, L, H, 4))
    each(function(a, run)
      local causal = attend(a, q, k, v, { causal = true })
      assert.equal(causal:tobytes(),
        run(q, k, v, { limits = counts(climbing(L, 1, 1), 1, L) }):tobytes(), a.name)
    end)
  end)

  it("of 0 give 0, and so do keys that are all masked", function()
    local q, k, v, g = tensors(inputs(1, 4, C + 2, H, 5))
    local o = { limits = counts({ 0, 3, 0, C + 1 }, 1, 4) }
    each(function(a)
      local out, dq = gradients(a, q, k, v, g, as_tensors(o))
      for _, i in ipairs { 1, 3 } do
        assert.equal(0, out:slice(3, i, i):abs():max():item())
        assert.equal(0, dq:slice(3, i, i):abs():max():item())
      end
      for _, t in ipairs { q, k, v } do t:clear_grad() end
    end)
  end)

  it("keep what lies behind them out, NaN and infinity included", function()
    local Lq, Lk, edge = 7, 2 * C + 9, C + 3
    local q, k, v = inputs(1, Lq, Lk, H, 6)
    local o = { limits = counts({ 5, edge, 0, edge, 1, C, edge - 1 }, 1, Lq) }
    each(function(a, run)
      local want = run(array.tensor(q), array.tensor(k), array.tensor(v), o)
      for _, alien in ipairs { 1e4, 0 / 0, math.huge, -math.huge } do
        local function behind(x)
          return array.tensor(array.new(x.shape, function(i)
            return (i - 1) // x.shape[4] % Lk >= edge and alien or x[i]
          end))
        end
        assert.equal(want:tobytes(), run(array.tensor(q), behind(k), behind(v), o):tobytes(),
          ("%s, then %g"):format(a.name, alien))
      end
    end)
  end)

  it("must be counts of the keys there are", function()
    local q, k, v = tensors(inputs(1, 3, 5, H, 7))
    local function call(o)
      return function() pf.attention.exact(q, k, v, as_tensors(o)) end
    end
    assert.error_matches(call { limits = counts({ 1, 6, 2 }, 1, 3) }, "query 2 of item 1 has 6")
    assert.error_matches(call { limits = counts({ 1, -1, 2 }, 3) }, "query 2 of item 1 has %-1")
    assert.error_matches(call { limits = counts({ 1, 2 }, 1, 2) }, "limits must be .*%[1, 3%]")
    assert.error_matches(call { limits = counts({ 1, 2, 3 }, 3), prefix = counts({ 1 }, 1) },
      "limits and prefix")
  end)
end)

describe("decays", function()
  it("are finite numbers from 0 on, of causal attention, in calls and states", function()
    local q, k, v = tensors(inputs(1, 4, 4, H, 8))
    for _, bad in ipairs { -0.1, 0 / 0, math.huge, -math.huge } do
      local decay = pf.tensor { 0.1, bad, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1 }:slice(1, 1, k:size(2))
      local text = "decay of head 2 is .*a finite number from 0 on"
      each(function(a, run)
        assert.raises(text, function() attend(a, q, k, v, { causal = true, decay = decay }) end)
        assert.is_function(run)
      end)
      assert.raises(text, function()
        pf.attention.sliding(q, k, v, { causal = true, decay = decay })
      end)
      assert.raises(text, function()
        pf.attention.state { attention = "exact", heads = k:size(2), head_dim = 8, decay = decay }
      end)
    end
  end)
end)

-- ---- prefixes --------------------------------------------------------------------------

describe("a prefix", function()
  it("is seen by all, what follows causally", function()
    local L = C + 11
    hold(2, L, L, { causal = true, prefix = counts({ 0, C + 2 }, 2) })
    hold(2, L, L, { causal = true, prefix = counts({ 17, L }, 2), mask = trial.holes(2, L) })
  end)

  it("is the staircase max(i, prefix), bit for bit, and of 0 plainly causal", function()
    local L, P = C + 20, 37
    local q, k, v = tensors(inputs(1, L, L, H, 8))
    local stair = array.new({ 1, L }, function(i) return math.max(i, P) end, "i32")
    each(function(a, run)
      assert.equal(run(q, k, v, { limits = stair }):tobytes(),
        run(q, k, v, { causal = true, prefix = counts({ P }, 1) }):tobytes(), a.name)
      assert.equal(run(q, k, v, { causal = true }):tobytes(),
        run(q, k, v, { causal = true, prefix = counts({ 0 }, 1) }):tobytes(), a.name)
      assert.raises("a prefix is for causal attention", function()
        run(q, k, v, { prefix = counts({ 0 }, 1) })
      end)
    end)
  end)

  it("of a model sees past itself: the pass has one an item", function()
    pf.seed(3)
    for _, attention in ipairs { "favor", "exact" } do
      local model = pf.nn.performer { vocab = 12, dim = 16, layers = 2, heads = 2, causal = true,
        attention = attention,
        kernel = attention == "favor" and { name = "softmax", features = 16 } or nil }
      local ids = pf.tensor({ { 1, 2, 3, 4, 5, 6 } }, { dtype = "i32" })
      local other = pf.tensor({ { 1, 2, 9, 4, 5, 6 } }, { dtype = "i32" })
      local function first(x, prefix)
        local pass = prefix and { prefix = pf.tensor({ prefix }, { dtype = "i32" }) }
        return model(x, pass):slice(2, 1, 1):tobytes()
      end
      assert.equal(first(ids), first(other))
      assert.equal(first(ids, 2), first(other, 2))
      assert.not_equal(first(ids, 3), first(other, 3))
      assert.error_matches(function()
        model(ids, { prefix = pf.tensor({ 1, 2 }, { dtype = "i32" }) })
      end, "prefix")
    end
  end)
end)

-- ---- documents by offsets --------------------------------------------------------------

describe("cu_seqlens", function()
  local L = 2 * C + 20
  local offsets = { 0, 10, 10, 10 + C, 2 * C + 19, L }
  local cu = counts(offsets, #offsets)

  it("cut like the documents they stand for, bit for bit", function()
    local q, k, v, g = tensors(inputs(1, L, L, H, 9))
    local documents = array.new({ 1, L }, function(i)
      local n = 1
      while offsets[n + 1] < i do n = n + 1 end
      return n
    end, "i32")
    for _, causal in ipairs { false, true } do
      each(function(a)
        local function run(o)
          local results = { gradients(a, q, k, v, g, as_tensors(with(o, { causal = causal }))) }
          for i, t in ipairs(results) do results[i] = t:tobytes() end
          for _, t in ipairs { q, k, v } do t:clear_grad() end
          return results
        end
        assert.are.same(run { documents = documents }, run { cu_seqlens = cu }, a.name)
      end)
    end
  end)

  it("take no key from another document", function()
    hold(1, L, L, { cu_seqlens = cu, causal = true })
    hold(1, L, L, { cu_seqlens = cu, limits = counts(jumping(L, L), L) })
  end)

  it("must start at 0, never fall and end at the length", function()
    local q, k, v = tensors(inputs(1, 6, 6, H, 10))
    local function call(list, more)
      return function()
        pf.attention.exact(q, k, v, as_tensors(with({ cu_seqlens = counts(list, #list) },
          more or {})))
      end
    end
    call { 0, 2, 2, 6 }()
    assert.error_matches(call { 1, 6 }, "start at 0, it starts at 1")
    assert.error_matches(call { 0, 4, 3, 6 }, "number 3 is 3 after 4")
    assert.error_matches(call { 0, 4 }, "end at the length %(6%), it ends at 4")
    assert.error_matches(call({ 0, 6 }, { documents = trial.runs(1, 6, 2) }), "give one")
    assert.error_matches(call({ 0, 6 }, { prefix = counts({ 2 }, 1) }), "give limits")
    local q2, k2, v2 = tensors(inputs(2, 6, 6, H, 10))
    assert.error_matches(function()
      pf.attention.exact(q2, k2, v2, { cu_seqlens = array.tensor(counts({ 0, 6 }, 2)) })
    end, "batch of 1")
  end)
end)

describe("packed documents behind an entry state", function()
  it("hand it to the first document alone", function()
    local q, k, v = pf.rand(1, 2, 8, 4), pf.rand(1, 2, 8, 4), pf.randn(1, 2, 8, 3)
    local o = { causal = true,
                documents = pf.tensor({ { 0, 0, 0, 1, 1, 1, 1, 1 } }, { dtype = "i32" }) }
    local plain = pf.linear_attention(q, k, v, o)
    o.entry_s, o.entry_z = pf.rand(1, 2, 4, 3), pf.rand(1, 2, 4)
    o.entry_shift = pf.zeros(1, 2)
    local behind = pf.linear_attention(q, k, v, o)
    assert.not_equal(plain:slice(3, 1, 3):tobytes(), behind:slice(3, 1, 3):tobytes())
    assert.equal(plain:slice(3, 4, 8):tobytes(), behind:slice(3, 4, 8):tobytes())
  end)
end)

-- ---- grouped keys and values -----------------------------------------------------------

describe("grouped keys and values", function()
  it("serve their heads of queries, gradients summed", function()
    local L = C + 9
    for _, causal in ipairs { false, true } do
      hold(2, L, L, { causal = causal }, 1)
      hold(1, L, L, { causal = causal, documents = trial.runs(1, L, 29),
                      mask = trial.holes(1, L) }, 1)
    end
    hold(1, 9, L, { limits = counts(jumping(9, L), 9) }, 1)
  end)

  it("are the same keys given to every head, bit for bit", function()
    local L = C + 5
    local q, k, v = tensors(inputs(2, L, L, 1, 12))
    local k2, v2 = pf.concat({ k, k }, 2), pf.concat({ v, v }, 2)
    local kernel = pf.kernel.softmax { seed = 5, head_dim = D, features = 16, per_head = false }
    for _, causal in ipairs { false, true } do
      local o = { kernel = kernel, causal = causal }
      assert.equal(pf.attention.favor(q, k2, v2, o):tobytes(),
        pf.attention.favor(q, k, v, o):tobytes())
      assert.equal(pf.attention.exact(q, k2, v2, { causal = causal }):tobytes(),
        pf.attention.exact(q, k, v, { causal = causal }):tobytes())
    end
    assert.equal(v2:tobytes(), pf.attention.identity(q, k, v):tobytes())
  end)

  it("serve the heads of queries that follow each other: 1 1 2 2", function()
    local L = C + 5
    local q, k, v, g = pf.randn(2, 4, L, D), pf.randn(2, 2, L, D), pf.randn(2, 2, L, DV),
                       pf.randn(2, 4, L, DV)
    local function spread(x)
      local a, b = x:slice(2, 1, 1), x:slice(2, 2, 2)
      return pf.concat({ a, a, b, b }, 2)
    end
    --- Output and the gradients of q, k, v of sum(out g).
    local function run(which, options, ...)
      local list = { ... }
      for i, x in ipairs(list) do list[i] = x:detach():requires_grad() end
      local tape <close> = pf.tape()
      local out = pf.attention[which](list[1], list[2], list[3], options)
      tape:backward((out * g):sum())
      return { out:detach(), list[1]:grad(), list[2]:grad(), list[3]:grad() }
    end
    local kernel = pf.kernel.softmax { seed = 5, head_dim = D, features = 16, per_head = false }
    for _, which in ipairs { "favor", "exact" } do
      for _, causal in ipairs { false, true } do
        local options = { causal = causal, kernel = which == "favor" and kernel or nil }
        local few, all = run(which, options, q, k, v), run(which, options, q, spread(k), spread(v))
        for i = 3, 4 do all[i] = all[i]:reshape(2, 2, 2, L, -1):sum(3) end
        assert.equal(all[1]:tobytes(), few[1]:tobytes())
        for i = 2, 4 do assert.is_true(support.distance(all[i], few[i]) < 1e-5, which .. i) end
      end
    end
  end)

  it("of identity attention sum their gradients", function()
    local q, k, v, g = tensors(inputs(2, 5, 5, 1, 13))
    v:requires_grad()
    do
      local tape <close> = pf.tape()
      tape:backward((pf.attention.identity(q, k, v) * g):sum())
    end
    assert.equal((g:slice(2, 1, 1) + g:slice(2, 2, 2)):tobytes(), v:grad():tobytes())
  end)

  it("need a multiple of heads", function()
    local q, k, v = pf.ones(1, 3, 4, D), pf.ones(1, 2, 4, D), pf.ones(1, 2, 4, DV)
    assert.error_matches(function() pf.attention.exact(q, k, v) end, "multiple")
    assert.error_matches(function()
      pf.nn.attention { dim = 12, heads = 4, kv_heads = 3 }
    end, "kv_heads 3")
  end)

  it("in a model: fewer weights, and a stream that follows the parallel form", function()
    pf.seed(4)
    local function build(kv_heads, attention)
      return pf.nn.performer { vocab = 12, dim = 32, layers = 2, heads = 4, kv_heads = kv_heads,
        causal = true, decay = 0.5, attention = attention, qk_norm = true,
        kernel = attention == "favor" and { name = "softmax", features = 16 } or nil }
    end
    local function params(model)
      local n = 0
      for _, p in pairs(model:parameters()) do n = n + p:numel() end
      return n
    end
    assert.equal(params(build(0, "favor")), params(build(4, "favor")))
    assert.equal(2 * 32 * 2 * 3 * 8, params(build(4, "favor")) - params(build(1, "favor")))
    local ids = array.new({ 1, 9 }, function(i) return i * 5 % 12 end, "i32")
    for _, attention in ipairs { "favor", "exact" } do
      local model = build(2, attention)
      local whole = array.of(model(array.tensor(ids)))
      local state = model:state { batch = 1 }
      for i = 1, 9 do
        local step = array.of(model:step(pf.tensor({ ids[i] }, { dtype = "i32" }), state))
        for c = 1, 12 do
          assert.near(whole[(i - 1) * 12 + c], step[c], 1e-4, attention)
        end
      end
    end
  end)
end)
