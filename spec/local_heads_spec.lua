-- local_heads_spec.lua - heads of different kinds in a layer (local_heads), and patterns among the
-- attentions of each layer: what they are short for, and that they train, stream and are saved.
local pf = require "performer"
local models = require "spec.support.models"
local support = require "spec.support"

local L = 200
local x = models.ids(2, L, 19, 1)

local function largest(a, b) return (a - b):abs():max():item() end

local function made(options)
  options.heads, options.layers = options.heads or 4, 2
  return models.new(options)
end

--- Fails unless the model trains, is saved and loaded, and streams what the whole row gives.
local function assert_works(model)
  local whole, folder = model(x), support.folder()
  assert(pf.checkpoint.save(folder, { model = model }))
  assert.equal(0, largest(whole, assert(pf.checkpoint.model(folder))(x)))
  support.remove(folder)
  do
    local tape <close> = pf.tape()
    tape:backward(model:loss { input = x, target = x })
  end
  for _, p in ipairs(model:parameters()) do assert.is_truthy(p:grad()) end
  model:clear_grad()
  if not model:options().causal then return end
  local state = model:state { batch = 2 }
  local y = model:prefill(x:slice(2, 1, L - 1), state)
  local last = model:step(x:slice(2, L, L):reshape(2), state)
  assert.is_true(largest(y, whole:slice(2, 1, L - 1)) < 1e-5)
  assert.is_true(largest(last, whole:slice(2, L, L):reshape(2, 19)) < 1e-5)
end

describe("local_heads", function()
  for name, options in pairs {
    favor = {}, exact = { attention = "exact" }, ["grouped heads"] = { kv_heads = 2 },
    ["full attention"] = { causal = false }, ["another window"] = {
      attention = { name = "sliding", window = 9 } },
    strided = { attention = { name = "strided", stride = 8 } },
  } do
    it("are short for groups of heads: " .. name, function()
      options.local_heads, options.local_window = 2, 5
      local model = made(options)
      assert_works(model)
      options.local_heads, options.local_window = nil, nil
      options.head_groups = { { heads = 2, attention = { name = "sliding", window = 5 } },
                              { heads = 2 } }
      assert.equal(0, largest(model(x), made(options)(x)))
    end)
  end

  it("may be all heads, and go with another attention in each layer", function()
    assert_works(made { local_heads = 4, local_window = 5 })
    assert_works(made { local_heads = 2, local_window = 5, attentions = { "favor", "exact" } })
  end)

  it("go by slices where the others do", function()
    local model = made { local_heads = 1, local_window = 30 }
    local batch = { input = x, target = models.ids(2, L, 19, 2) }
    assert.near(model:loss(batch):item(), model:backward_sliced(batch, { slices = 4 }), 1e-5)
    assert.has_error(function()
      made { local_heads = 1, attention = "exact" }:backward_sliced(batch, { slices = 4 })
    end)
  end)

  it("say what they can't be", function()
    for text, options in pairs {
      ["local_heads is 5, and there are 4 heads"] = { local_heads = 5 },
      ["local_heads and head_groups both say"] = { local_heads = 1,
                                                   head_groups = { { heads = 4 } } },
      ["'local_window' does nothing here: it is for local_heads = 1"] = { local_window = 9 },
      ["'local_window' is of local_heads, and head_groups say what heads"] = { local_window = 9,
        head_groups = { { heads = 2 }, { heads = 2, attention = "sliding" } } },
      ["no whole share of 2 kv_heads"] = { local_heads = 1, kv_heads = 2 },
    } do
      local fine, message = pcall(made, options)
      assert.is_false(fine)
      assert.is_truthy(tostring(message):find(text, 1, true), tostring(message))
    end
  end)
end)

describe("an attention of its own for each layer", function()
  for name, attentions in pairs {
    ["sliding and favor"] = { { name = "sliding", window = 20 }, "favor" },
    ["strided near, strided far"] = { { name = "strided", stride = 8, part = "near" },
                                      { name = "strided", stride = 8, part = "far" } },
    ["fixed and bigbird"] = { { name = "fixed", stride = 16, last = 2 },
                              { name = "bigbird", block = 16 } },
    ["windows that widen"] = { { name = "sliding", window = 8 },
                               { name = "sliding", window = 16, dilation = 2 } },
  } do
    it("may be a pattern: " .. name, function()
      assert_works(made { attentions = attentions, decay = 0.1 })
    end)
  end
end)
