-- attention_gradients_spec.lua - where the gradients of q, k and v go: into the leaf's own
-- gradient, in place. A second backward adds, to the bit what adding two gradients gives, and
-- takes no array of the sequence's length; the same where the target is no leaf, where one
-- tensor stands for several inputs, and for every reach.
local pf = require "performer"
local child = require "spec.support.child"
require "spec.support"

local kernel = pf.kernel.softmax { head_dim = 8, features = 16, seed = 3 }
local positive = pf.kernel.relu { head_dim = 8 }

-- Masks, documents and limits are made for the size.
local function documents(B, L)
  local list = {}
  for b = 1, B do
    list[b] = {}
    for i = 1, L do list[b][i] = (i + 9 * b) // 37 end
  end
  return pf.tensor(list, { dtype = "i32" })
end
local function holes(B, L)
  local list = {}
  for b = 1, B do
    list[b] = {}
    for i = 1, L do list[b][i] = (i + b) % 5 == 0 and 0 or 1 end
  end
  return pf.tensor(list, { dtype = "i32" })
end
local function limits(_, L)
  local list = {}
  for i = 1, L do list[i] = (i * 53) % (L + 1) end
  return pf.tensor(list, { dtype = "i32" })
end

local attentions = {
  favor = function(q, k, v, o)
    o.kernel = kernel
    return pf.attention.favor(q, k, v, o)
  end,
  relu = function(q, k, v, o)
    o.kernel = positive
    return pf.attention.favor(q, k, v, o)
  end,
  exact = function(q, k, v, o) return pf.attention.exact(q, k, v, o) end,
  linear = function(q, k, v, o) return pf.attention.linear(q:exp(), k:exp(), v, o) end,
}

local cases = {
  { name = "full" }, { name = "causal", options = { causal = true } },
  { name = "masked", mask = holes },
  { name = "masked, causal", mask = holes, options = { causal = true } },
  { name = "documents", documents = documents },
  { name = "documents, causal", documents = documents, options = { causal = true } },
  { name = "limits", limits = limits },
  { name = "grouped heads", Hk = 1 },
  { name = "grouped, causal", Hk = 1, options = { causal = true } },
}

local function options_of(case, B, L)
  local o = {}
  for key, value in pairs(case.options or {}) do o[key] = value end
  for _, name in ipairs { "mask", "documents", "limits" } do
    o[name] = case[name] and case[name](B, L)
  end
  return o
end

local function inputs(case, B, H, L)
  pf.seed(17)
  local Hk = case.Hk or H
  return { pf.randn(B, H, L, 8), pf.randn(B, Hk, L, 8), pf.randn(B, Hk, L, 6) },
    pf.randn(B, H, L, 6)
end

local function leaves(list)
  local fresh = {}
  for i, t in ipairs(list) do fresh[i] = t:detach():requires_grad() end
  return fresh
end

--- One backward of the attention of leaves x.
local function backward(attend, x, seed, o)
  local tape <close> = pf.tape()
  tape:backward(attend(x[1], x[2], x[3], o), seed)
end

local function hold_sums(attend, case, B, H, L)
  local list, seed = inputs(case, B, H, L)
  local o = options_of(case, B, L)
  local alone, twice, mixed, inner = leaves(list), leaves(list), leaves(list), leaves(list)
  local weights = {}
  for i, t in ipairs(list) do weights[i] = t:sin() end
  backward(attend, alone, seed, o)
  backward(attend, twice, seed, o)
  backward(attend, twice, seed, o)
  -- A gradient of another op is there first: of leaves, and of tensors made on the tape.
  for i, x in ipairs(mixed) do
    local tape <close> = pf.tape()
    tape:backward(x * weights[i], pf.ones(table.unpack(x:shape())))
  end
  backward(attend, mixed, seed, o)
  do
    local tape <close> = pf.tape()
    local y = {}
    for i, x in ipairs(inner) do y[i] = x * 1 end
    local loss = (attend(y[1], y[2], y[3], o) * seed):sum()
    for i = 1, 3 do loss = loss + (y[i] * weights[i]):sum() end
    tape:backward(loss)
  end
  for i = 1, 3 do
    local text, g = case.name .. ", input " .. i, alone[i]:grad()
    assert.is_true(g:abs():max():item() > 0, text)
    assert.bits_equal(g + g, twice[i]:grad(), text)
    assert.bits_equal(weights[i] + g, mixed[i]:grad(), text)
    assert.bits_equal(weights[i] + g, inner[i]:grad(), text .. ", not a leaf")
  end
end

describe("gradients of attention", function()
  for name, attend in pf.sorted(attentions) do
    it("of " .. name .. " add to what is there, to the bit", function()
      for _, case in ipairs(cases) do hold_sums(attend, case, 2, 2, 150) end
    end)
  end

  it("add as one sequence on several threads", function()
    for _, case in ipairs { cases[1], cases[2], cases[6] } do
      hold_sums(attentions.favor, case, 1, 1, 1500)
    end
  end)

  it("of one tensor in three places are the sum of three", function()
    for _, name in ipairs { "favor", "exact" } do
      local attend = attentions[name]
      local list, seed = inputs({}, 2, 2, 90)
      seed = pf.concat({ seed, seed }, 4):slice(4, 1, 8)
      local one, three = leaves { list[1] }[1], leaves { list[1], list[1], list[1] }
      for _ = 1, 2 do
        backward(attend, { one, one, one }, seed, { causal = true })
        backward(attend, three, seed, { causal = true })
      end
      local sum = three[1]:grad() + three[2]:grad() + three[3]:grad()
      assert.near_tensor(sum, one:grad(), 1e-6)
    end
  end)

  it("leave alone what a caller holds of an earlier gradient", function()
    local list, seed = inputs({}, 2, 2, 90)
    local x = leaves(list)
    backward(attentions.favor, x, seed, {})
    local held, bytes = {}, {}
    for i = 1, 3 do held[i], bytes[i] = x[i]:grad(), x[i]:grad():tobytes() end
    backward(attentions.favor, x, seed, {})
    for i = 1, 3 do
      assert.equal(bytes[i], held[i]:tobytes())
      assert.bits_equal(held[i] + held[i], x[i]:grad())
    end
  end)

  it("cleared, are written anew", function()
    local list, seed = inputs({}, 2, 2, 90)
    local x = leaves(list)
    backward(attentions.favor, x, seed, {})
    local bytes = {}
    for i = 1, 3 do
      bytes[i] = x[i]:grad():tobytes()
      x[i]:clear_grad()
    end
    backward(attentions.favor, x, seed, {})
    for i = 1, 3 do assert.equal(bytes[i], x[i]:grad():tobytes()) end
  end)
end)

describe("memory of the backward", function()
  local L <const>, ARRAY <const> = 32768, 32768 * 8 * 4

  --- Bytes above what the forward left, at most, of the first backward and of a second one,
  --- in arrays of the sequence's length.
  local function peaks(attend, o)
    local x, seed = {}, pf.randn(1, 1, L, 8)
    for i = 1, 3 do x[i] = (pf.randn(1, 1, L, 8) * 0.3):requires_grad() end
    local found = {}
    for i = 1, 3 do
      local tape <close> = pf.tape()
      local out = attend(x[1], x[2], x[3], o)
      collectgarbage()
      pf.reset_peak()
      local before = pf.memory().live
      tape:backward(out, seed)
      if i > 1 then found[i - 1] = (pf.memory().peak - before) / ARRAY end
      if i == 1 then for k = 1, 3 do x[k]:requires_grad(false):requires_grad() end end
    end
    return found[1], found[2]
  end

  for _, causal in ipairs { false, true } do
    it(("is the leaves' gradients alone%s"):format(causal and ", causal" or ""), function()
      local first, again = peaks(attentions.favor, { causal = causal })
      assert.is_true(first < 3.5, first)
      assert.is_true(again < 0.5, again)
    end)
  end

  it("of exact attention holds the queries' once more", function()
    local text = child.run([[
      local L = 2048
      local x, seed = {}, pf.randn(1, 1, L, 64)
      for i = 1, 3 do x[i] = pf.randn(1, 1, L, 64):requires_grad() end
      for i = 1, 2 do
        local tape <close> = pf.tape()
        local out = pf.attention.exact(x[1], x[2], x[3], { causal = true })
        pf.reset_peak()
        local before = pf.memory().live
        tape:backward(out, seed)
        print((pf.memory().peak - before) / (L * 64 * 4))
      end
    ]], "{threads = 1}")
    local first, again = text:match "(%S+)%s+(%S+)"
    assert.is_true(tonumber(first) < 4.5, first)
    assert.is_true(tonumber(again) < 2.5, again)
  end)
end)
