-- load_weights_spec.lua - numbers for a model from somewhere else: what a map may be, what the
-- report says, and that a load which is refused changes nothing.
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local SIZES = { vocab = 7, dim = 8, layers = 1, heads = 2, length = 6, causal = true,
                positions = "learned", kernel = { features = 8, seed = 3 } }

local function model_of(seed, more)
  pf.seed(seed)
  local options = {}
  for key, value in pairs(SIZES) do options[key] = value end
  for key, value in pairs(more or {}) do options[key] = value end
  return nn.performer(options)
end

--- The bytes of everything that a model saves.
local function bytes_of(model)
  local all = {}
  for name, tensor in pf.sorted(model:tensors()) do all[#all + 1] = name .. tensor:tobytes() end
  return table.concat(all)
end

local function names_of(list)
  local names = {}
  for i, entry in ipairs(list) do names[i] = entry.name end
  return names
end

describe("weights.load", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  --- The load is refused with this, and the model is as it was.
  local function refused(pattern, model, source, options)
    local before = bytes_of(model)
    local report, message, code = pf.weights.load(model, source, options)
    assert.is_nil(report)
    assert.truthy(message:find(pattern), message)
    assert.are.equal("string", type(code))
    assert.is_true(before == bytes_of(model))
  end

  it("takes a model's own tensors under other names, all or none", function()
    local one, two = "blocks.1.norm1.weight", "blocks.1.norm2.weight"
    local model = model_of(1)
    local own = model:tensors()
    own[one]:fill_(1)
    own[two]:fill_(2)
    for _, source in ipairs { model, own } do
      local a, b = own[one]:tobytes(), own[two]:tobytes()
      assert(pf.weights.load(model, source, { map = { [one] = two, [two] = one } }))
      assert.is_true(own[one]:tobytes() == b and own[two]:tobytes() == a)
    end
    local before = bytes_of(model)
    local function dead()
      local _ <close> = pf.tape()
      return own[one]:detach():requires_grad() * 2
    end
    assert.error_matches(function()
      pf.weights.load(model, model_of(2), { map = { [one] = dead }, strict = false })
    end, "'blocks.1.norm1.weight' died with its tape")
    assert.is_true(before == bytes_of(model))
  end)

  it("refuses a map of a name that the model does not have, but where not all must fit", function()
    local map = { ["blocks.1.norm1.weigth"] = "blocks.1.norm2.weight" }
    local model = model_of(1)
    assert.error_matches(function() pf.weights.load(model, model_of(2), { map = map }) end,
      "no tensor of the model %(did you mean 'blocks.1.norm1.weight'%?%)")
    assert(pf.weights.load(model, model_of(2), { map = map, strict = false }))
  end)

  it("takes a file, a run, a model or tensors", function()
    local from = model_of(1)
    local bytes = bytes_of(from)
    pf.save(folder .. "/w.safetensors", from)
    local run = folder .. "/run"
    assert(pf.checkpoint.save(run, { model = from, step = 3 }))
    for _, source in ipairs { folder .. "/w.safetensors", run, run .. "/step-3", from,
                              from:tensors() } do
      local model = model_of(2)
      local report = assert(pf.weights.load(model, source))
      assert.is_true(bytes == bytes_of(model))
      assert.are.equal(0, #report.missing + #report.unexpected + #report.misshapen + #report.kept)
    end
  end)

  it("reports what is missing, unexpected and misshapen, with shapes", function()
    local tensors = model_of(1):tensors()
    tensors["norm.weight"], tensors.other = nil, pf.zeros(3)
    tensors["positions.weight"] = pf.zeros(9, 8)
    tensors["blocks.1.attention.projection"] = nil
    local report = assert(pf.weights.load(model_of(2), tensors, { strict = false }))
    assert.are.same({ "norm.weight" }, names_of(report.missing))
    assert.are.same({ "other" }, names_of(report.unexpected))
    assert.are.same({ "positions.weight" }, names_of(report.misshapen))
    assert.are.same({ 9, 8 }, { table.unpack(report.misshapen[1].shape) })
    assert.are.same({ 6, 8 }, { table.unpack(report.misshapen[1].wanted) })
    assert.are.same({ "blocks.1.attention.projection" }, report.kept)
    local text = tostring(report)
    assert.truthy(text:find "^%d+ loaded, 1 missing, 1 unexpected, 1 misshapen\n")
    assert.truthy(text:find("missing: 'norm.weight' [8]", 1, true), text)
    refused("does not fit the model: 'positions.weight' is %[9, 8%], in the model %[6, 8%]: "
      .. "learned positions for 9 tokens", model_of(2), tensors)
    refused("missing: 'norm.weight' %[8%]; unexpected: 'other' %[3%]", model_of(2), tensors)
  end)

  it("asks for frozen parameters as for all others, and takes them without buffers", function()
    local from, model = model_of(1), model_of(2)
    model:freeze "embedding|qkv"
    local report = assert(pf.weights.load(model, from, { buffers = false }))
    assert.are.same({ "blocks.1.attention.projection" }, report.kept)
    assert.are.equal(bytes_of(from), bytes_of(model)) -- projections are of one seed
    local tensors = from:tensors()
    tensors["embedding.weight"] = nil
    refused("missing: 'embedding.weight'", model, tensors)
  end)

  it("refuses what fits nothing, strict or not", function()
    local other = { ["layer.weight"] = pf.zeros(2, 2) }
    for _, strict in ipairs { true, false } do
      refused("no tensor of it fits the model, the first is 'layer.weight'; say with `map`",
        model_of(1), other, { strict = strict })
    end
    refused("no tensor of it fits", model_of(1), {})
  end)

  it("refuses another vocabulary and another number type in words", function()
    local tensors = model_of(1, { vocab = 9 }):tensors()
    refused("'embedding.weight' is %[9, 8%], in the model %[7, 8%]: another vocabulary, of 9 "
      .. "tokens where the model has 7", model_of(2), tensors)
    tensors = model_of(1):tensors()
    tensors["norm.weight"] = pf.zeros(8, { dtype = "i32" })
    refused("'norm.weight' is %[8%] i32, in the model %[8%] f32", model_of(2), tensors)
  end)

  it("leaves buffers as they are where that is asked", function()
    local from, model = model_of(1, { kernel = { features = 8, seed = 9 } }), model_of(2)
    local name = "blocks.1.attention.projection"
    local own = model:tensors()[name]:tobytes()
    local report = assert(pf.weights.load(model, from, { buffers = false }))
    assert.are.same({ name }, report.kept)
    assert.is_true(own == model:tensors()[name]:tobytes())
    assert(pf.weights.load(model, from))
    assert.is_false(own == model:tensors()[name]:tobytes())
  end)

  describe("maps names", function()
    --- A linear layer under other names, cut up.
    local function parts(layer)
      local w = layer:tensors().weight
      return { q = w:slice(1, 1, 2), k = w:slice(1, 3, 4), v = w:slice(1, 5, 6),
               b = layer:tensors().bias, mask = pf.zeros(2) }
    end

    it("by a table: a name, several, a function, or none", function()
      pf.seed(1)
      local from, model = nn.linear { from = 4, to = 6 }, nn.linear { from = 4, to = 6 }
      local report = assert(pf.weights.load(model, parts(from), { strict = false,
        map = { weight = { "q", "k", "v" }, bias = function(source) return source.b * 2 end } }))
      assert.bits_equal(from:tensors().weight, model:tensors().weight)
      assert.bits_equal(from:tensors().bias * 2, model:tensors().bias)
      assert.are.same({ "mask" }, names_of(report.unexpected))
      local own = model:tensors().weight:tobytes()
      report = assert(pf.weights.load(model, { b = pf.ones(6) },
                                      { map = { weight = false, bias = "b" }, strict = false }))
      assert.are.same({ "weight" }, names_of(report.missing))
      assert.is_true(own == model:tensors().weight:tobytes())
    end)

    it("by a function, which sees the model too", function()
      pf.seed(1)
      local from, model = nn.linear { from = 4, to = 6 }, nn.linear { from = 4, to = 6 }
      local function map(source, into)
        assert.are.equal("linear", into:type())
        local _ = source.mask -- looked at: nobody misses it
        return { weight = pf.concat({ source.q, source.k, source.v }, 1), bias = source.b }
      end
      assert(pf.weights.load(model, parts(from), { map = map }))
      assert.bits_equal(from:tensors().weight, model:tensors().weight)
      local function renamed(source)
        local made = {}
        for name, tensor in pairs(source) do made[name:gsub("^x%.", "")] = tensor end
        return made
      end
      local under = {}
      for name, tensor in pairs(from:tensors()) do under["x." .. name] = tensor end
      assert(pf.weights.load(model, under, { map = renamed }))
    end)

    it("and says what a map does wrong", function()
      local model = nn.linear { from = 4, to = 6 }
      local function raises(pattern, map)
        assert.raises(pattern, function()
          pf.weights.load(model, { b = pf.ones(6) }, { map = map })
        end)
      end
      raises("map must be a table, a function or the name of a scheme", 3)
      raises("there is no scheme 'bertt' %(did you mean 'bert'%?%)", "bertt")
      raises("the map must give {name = tensor}, got nil", function() end)
      raises("the map gave number for 'bias'; a tensor is needed",
        function() return { bias = 1 } end)
      raises("the map's 'bias' must be a name, a list of names or a function, got number",
        { bias = 7 })
      assert.raises("unknown option 'maps'", function()
        pf.weights.load(model, {}, { maps = {} })
      end)
      assert.raises("a model is needed, got table", function() pf.weights.load({}, {}) end)
      assert.raises("{name = tensor} is needed, and 'w' is a number",
                    function() pf.weights.load(model, { w = 1 }) end)
      assert.raises("a path or {name = tensor} is needed, got number",
        function() pf.weights.load(model, 3) end)
    end)
  end)

  it("says what is wrong with a file", function()
    local model = model_of(1)
    refused("nothing%.safetensors", model, folder .. "/nothing.safetensors")
    support.write(folder .. "/bad.safetensors", "not one")
    refused("bad%.safetensors", model, folder .. "/bad.safetensors")
  end)
end)
