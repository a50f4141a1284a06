-- schemes_spec.lua - models of other programs, tiny and with made-up numbers: each loads into an
-- nn.performer made from its config, and computes what its own definition does in double precision.
local array = require "spec.support.array"
local foreign = require "spec.support.foreign"
local pf = require "performer"
local support = require "spec.support"

local IDS = { 3, 1, 0, 5, 6, 2, 4, 1, 1, 6, 0, 2 } -- (2, 6)

describe("models of other programs", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function ids() return array.new({ 2, 6 }, function(i) return IDS[i] end, "i32") end

  --- Writes a model, opens it, and holds its logits against the definition.
  local function check(name, config, numbers, extra)
    local model = foreign.models[name]
    foreign.write(folder, config, numbers, extra)
    local opened, report, scheme = pf.weights.open(folder)
    assert(opened, report)
    assert.are.equal(name, scheme)
    assert.are.equal(0, #report.missing + #report.unexpected + #report.misshapen)
    local expected = array.tensor(model.forward(config, numbers, ids()))
    assert.near_tensor(expected, opened(array.tensor(ids())), 1e-5)
    return opened
  end

  for _, name in ipairs(pf.weights.schemes()) do
    it("load and compute the same: " .. name, function()
      local model = foreign.models[name]
      check(name, model.config, foreign.numbers(model, 1))
    end)
  end

  it("tell the matrices of Hugging Face's GPT-2, which lie the other way", function()
    local model = foreign.models.gpt2
    local numbers, extra = foreign.numbers(model, 2), {}
    for name, a in pairs(numbers) do
      if name:find "c_%a+%.weight$" then extra[name] = array.tensor(a):transpose(1, 2) end
    end
    check("gpt2", model.config, numbers, extra)
  end)

  it("call weights of norms gamma and beta in old files", function()
    local model = foreign.models.bert
    local numbers, extra = foreign.numbers(model, 9), {}
    local renamed = {}
    for name, a in pairs(numbers) do
      local old = name:gsub("LayerNorm%.weight$", "LayerNorm.gamma")
        :gsub("LayerNorm%.bias$", "LayerNorm.beta")
      extra[old] = array.tensor(a)
      renamed[#renamed + 1] = old ~= name and old or nil
    end
    assert.is_true(#renamed > 0)
    foreign.write(folder, model.config, {}, extra)
    local opened = assert(pf.weights.open(folder))
    assert.near_tensor(array.tensor(model.forward(model.config, numbers, ids())),
      opened(array.tensor(ids())), 1e-5)
  end)

  it("have a head of their own only where it differs from the table", function()
    local model = foreign.models.gpt2
    local numbers = foreign.numbers(model, 3)
    local own = check("gpt2", model.config, numbers)
    assert.truthy(own:tensors()["head.weight"])
    numbers["lm_head.weight"] = numbers["transformer.wte.weight"]
    assert.is_nil(check("gpt2", model.config, numbers):tensors()["head.weight"])
  end)

  it("turn neighbours or halves, which is the same to rounding", function()
    local model = foreign.models.llama2c
    local halves = check("llama2c", model.config, foreign.numbers(model, 8))
    local neighbours = assert(pf.weights.open(folder,
      { model = { rotary_pairs = "neighbours" } }))
    assert.near_tensor(halves(array.tensor(ids())), neighbours(array.tensor(ids())), 1e-5)
  end)

  it("stream what they compute", function()
    local model = foreign.models.gpt2
    local opened = check("gpt2", model.config, foreign.numbers(model, 4))
    pf.check.streaming(opened, array.tensor(ids()))
  end)

  it("take other attention, and keep their projections as they were drawn", function()
    local model = foreign.models.gpt2
    foreign.write(folder, model.config, foreign.numbers(model, 5))
    local opened, report = pf.weights.open(folder,
      { model = { attention = "favor", kernel = { features = 32, seed = 3 } } })
    assert(opened, report)
    assert.are.equal("favor", opened:options().attention)
    assert.are.same({ "blocks.1.attention.projection", "blocks.2.attention.projection" },
      report.kept)
  end)

  it("say what they lack in a sentence", function()
    local model = foreign.models.gpt2
    local numbers = foreign.numbers(model, 6)
    local function refused(pattern, config, more)
      foreign.write(folder, config, more or numbers)
      local opened, message, code = pf.weights.open(folder)
      assert.is_nil(opened)
      assert.truthy(message:find(pattern), message)
      assert.are.equal("PF_EFORMAT", code)
    end
    local function with(key, value)
      local config = {}
      for k, v in pairs(model.config) do config[k] = v end
      config[key] = value
      return config
    end
    refused("the config says no 'n_embd', which is needed for dim", with("n_embd", nil))
    refused("its scale_attn_weights is false, and no layer here has another than true",
      with("scale_attn_weights", false))
    refused("its activation is 'mish', which no layer here has",
      with("activation_function", "mish"))
    refused("'embedding.weight' is %[7, 8%], in the model %[9, 8%]: another vocabulary, of 7 "
      .. "tokens", with("vocab_size", 9))
    refused("'positions.weight' is %[9, 8%].*: learned positions for 9 tokens.*length = 9",
      with("block_size", 12))
    refused("its names are of no scheme known here %(llama2c, gpt2, bert, albert%)", model.config,
      { ["some.weight"] = numbers["lm_head.weight"] })
  end)

  it("need a config, and a scheme that there is", function()
    local model = foreign.models.gpt2
    foreign.write(folder, model.config, foreign.numbers(model, 7))
    os.remove(folder .. "/config.json")
    local opened, message = pf.weights.open(folder)
    assert.is_nil(opened)
    assert.truthy(message:find "config.json: No such file.*name the file .* with `config`", message)
    assert(pf.weights.open(folder .. "/model.safetensors", { config = model.config }))
    assert.raises("there is no scheme 'gpt' %(did you mean 'gpt2'%?%)",
      function() pf.weights.open(folder, { scheme = "gpt", config = model.config }) end)
  end)
end)
