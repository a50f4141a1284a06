-- binding_words_spec.lua - what the binding says: to words of other libraries, to texts that C
-- would cut, to values of the wrong kind; and how what it gives prints.
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn

describe("words of other libraries", function()
  local words = require "performer.words"
  local tensor, model = pf.ones(2), nn.linear { from = 2, to = 3 }
  local performer = nn.performer { vocab = 4, dim = 4, heads = 1, layers = 1, causal = true }
  local set = assert(pf.data.open { bytes = ("a text of some letters. "):rep(20) })
  local tape = pf.tape()
  tape:close()

  -- What has words of its own: what is asked, how its messages begin.
  local things = {
    tensor = tensor, module = model, optimizer = pf.optim.adamw(model, {}), tape = tape,
    stream = performer:stream(), dataset = set, pf = pf, nn = nn, optim = pf.optim,
    schedule = pf.schedule, data = pf.data, tokenizer = pf.tokenizer, kernel = pf.kernel,
    attention = pf.attention, checkpoint = pf.checkpoint, weights = pf.weights,
  }
  -- What advice calls them.
  local called = { t = tensor, m = model, nn = nn, x = tensor, opt = things.optimizer, tape = tape,
                   data = set, stream = things.stream }

  --- Fails where advice names something that is not there.
  local function check_advice(word, advice)
    for owner, name in (" " .. advice):gmatch "[^%w_.](%a+)[:.]([%a_][%w_]*)" do
      if called[owner] then
        assert.is_function(called[owner][name], ("%s: %s"):format(word, advice))
      end
    end
    for path in advice:gmatch "%f[%w]pf%.([%w_.]*[%w_])" do
      local found = pf
      for part in path:gmatch "[%w_]+" do found = found[part] end
      assert.is_truthy(found, ("%s: %s"):format(word, advice))
    end
  end

  it("are none of ours, and are told what is meant, which is there", function()
    for class, thing in pf.sorted(things) do
      for word, advice in pf.sorted(words[class]) do
        local ok, message = pcall(function() return thing[word] end)
        assert.is_false(ok, class .. "." .. word)
        assert.is_truthy(message:find(advice, 1, true), message)
        check_advice(class .. "." .. word, advice)
      end
    end
    for library, space in pf.sorted(words.libraries) do
      assert.is_nil(_G[library])
      assert.is_table(space == "pf" and pf or pf[space], library)
    end
    for word in pf.sorted(words.globals) do assert.is_nil(_G[word]) end
    for _, list in ipairs { words.notes, words.globals } do
      for word, advice in pf.sorted(list) do check_advice(word, advice) end
    end
  end)

  it("are found in every spelling", function()
    for _, word in ipairs { "zero_grad", "zeroGrad", "ZeroGrad", "zero_grad_parameters",
                            "zeroGradParameters" } do
      assert.raises("not needed: opt:step clears gradients", function() return model[word] end)
    end
    assert.raises("it is nn.chain", function() return nn.Sequential end)
    assert.raises("it is 'layers'", function() return nn.performer { numLayers = 2 } end)
    assert.raises("it is t:reshape", function() return tensor.resize_ end)
    assert.is_function(tensor.zero_)
  end)

  it("are told for options, where the option is there", function()
    for pattern, try in pf.sorted {
      ["linear: unknown option 'inputs'; it is 'from'"] = function()
        return nn.linear { inputs = 2, to = 3 }
      end,
      ["adamw: unknown option 'weight_decay'; it is 'decay'"] = function()
        return pf.optim.adamw(model, { weight_decay = 1 })
      end,
      ["linear: unknown option 'weight_decay'; there are from, to"] = function()
        return nn.linear { weight_decay = 1 }
      end,
      ["schedule.cosine: unknown option 'max_lr'; it is 'peak'"] = function()
        return pf.schedule.cosine { max_lr = 1 }
      end,
      ["step: unknown option 'grad_clip'; it is 'clip'"] = function()
        return things.optimizer:step { grad_clip = 1 }
      end,
      ["softmax: unknown option 'axis'; it is 'dim'"] = function()
        return tensor:softmax { axis = 1 }
      end,
      ["sum: unknown option 'keepdim'; it is 'keep'"] = function()
        return tensor:sum { keepdim = true }
      end,
      ["kernel: unknown option 'nb_features'; it is 'features'"] = function()
        return nn.performer { vocab = 4, dim = 4, heads = 1, kernel = { nb_features = 4 } }
      end,
      ["kernel.softmax: unknown option 'nb_features'; it is 'features'"] = function()
        return pf.kernel.softmax { nb_features = 4 }
      end,
      ["data: unknown option 'file'; it is 'path'"] = function()
        return pf.data.open { file = "x" }
      end,
      ["batches: unknown option 'batch_size'; it is 'size'"] = function()
        return set:batches { batch_size = 2 }
      end,
      ["generate: unknown option 'max_new_tokens'; it is 'tokens'"] = function()
        return performer:generate { max_new_tokens = 2 }
      end,
      ["stream: unknown option 'batch_size'; it is 'batch'"] = function()
        return performer:stream { batch_size = 2 }
      end,
      ["zeros: unknown option 'device'; everything runs on the CPU"] = function()
        return pf.zeros(2, { device = "cpu" })
      end,
      ["batches: unknown option 'epochs'; steps are counted"] = function()
        return set:batches { epochs = 2 }
      end,
    } do
      local ok, message = pcall(function() local result = try() return result end)
      assert.is_false(ok, pattern)
      assert.is_truthy(message:find(pattern), message)
    end
  end)

  it("for options name some that there are", function()
    local names = {}
    local function add(rows)
      for _, row in ipairs(rows) do
        for _, option in ipairs(row.options or row.attrs) do names[option.name] = true end
      end
    end
    add(pf.layers()) add(pf.optimizers()) add(pf.schedules()) add(pf.ops())
    add(pf.kinds()) add(pf.patterns()) add { pf.kernels() }
    for _, name in ipairs { -- of calls that no table lists: each is refused above by another word
      "path", "size", "batch", "valid", "valid_fraction", "tokens", "temperature", "stop", "prompt",
      "each", "threads", "memory", "clip", "mask", "training" } do
      names[name] = true
    end
    for word, list in pf.sorted(words.options) do
      for _, name in ipairs(list) do assert.is_true(names[name], word .. ": " .. name) end
      assert.is_nil(words.notes[word], word)
    end
  end)

  it("that are far by sense are not near by letters", function()
    local near = require("performer.core").nearest
    local names = {}
    for name in next, pf do names[#names + 1] = name end
    for _, word in ipairs { "acos", "sinh", "tan", "take", "tile", "sign", "median", "long", "plot",
                            "help", "print", "mode", "sort", "shape", "device", "insert", "std",
                            "less" } do
      if rawget(pf, word) == nil then assert.is_nil(near(word, names), word) end
    end
    for slip, name in pairs { reshpae = "reshape", softmx = "softmax", matmull = "matmul",
                              tensr = "tensor", conact = "concat", logsmexp = "logsumexp",
                              optimiser = "optimizer" } do
      names[#names + 1] = name
      assert.equal(name, near(slip, names))
    end
  end)

  it("of few letters are near to no other word, but to themselves with a slip", function()
    local space = require("performer.util").namespace({ sin = 1, div = 1, keys = 1 }, "t")
    assert.raises("t has no 'sni' %(did you mean 'sin'%?%)", function() return space.sni end)
    assert.raises("t has no 'key' %(did you mean 'keys'%?%)", function() return space.key end)
    for _, word in ipairs { "dim", "min", "sign", "keyx" } do assert.is_nil(space[word]) end
  end)

  it("on a module say where tensors and layers are", function()
    assert.raises("its tensor is m:tensors%(%)%[\"weight\"%]", function() return model.weight end)
    assert.raises("the layers in it, 1 here, are m:children%(%)",
      function() return nn.chain { model }[1] end)
    assert.raises("a module has no method 'treee' %(did you mean 'tree'%?%)",
      function() return model:treee() end)
    assert.raises("a module has no method 'xyz'", function() return model.xyz end)
    assert.raises("x must be a tensor, got a table %(pf.tensor makes one",
      function() model { 1, 2 } end)
    assert.raises("a stream has no method 'fed' %(did you mean 'feed'%?%)", function()
      return nn.performer { vocab = 4, dim = 4, heads = 1, layers = 1, causal = true }
        :stream().fed
    end)
  end)
end)

describe("what others give without a word", function()
  it("is told what to say", function()
    local x = pf.ones(2, 3)
    assert.raises("size: say of which dimension, as t:size%(1%); t:shape%(%) has all",
      function() return x:size() end)
    local options = { vocab = 4, dim = 4, heads = 1 }
    for option, told in pf.sorted { -- as on the command line
      attention = { "flash", "it is 'exact'" }, positions = { "rope", "it is 'rotary'" },
      act = { "swish", "it is 'silu'" },
      norm = { "layernrom", "%(did you mean 'layernorm'%?%)" },
    } do
      options[option] = told[1]
      assert.raises(("%s' must be one of .* got '%s';? ?%s$"):format(option, told[1], told[2]),
        function() return nn.performer(options) end)
      options[option] = nil
    end
    assert.raises("arange: takes n alone, .* pf.linspace",
      function() return pf.arange(0, 10, 2) end)
    assert.raises("no method ':, 0'; it is t%[{ {1, 2}, 1 }%]", function() return x[":, 0"] end)
  end)
end)

describe("a text with a zero byte", function()
  it("is refused wherever C would take its beginning for the whole", function()
    local folder, x = support.folder(), pf.ones(1)
    local file, model = folder .. "/x.safetensors", nn.linear { from = 1, to = 1 }
    assert(pf.save(file, { x = x }))
    local cut, map = file .. "\0y", function(y) return y end
    for i, try in ipairs {
      function() return pf.save(file, { ["a\0b"] = x }) end,
      function() return pf.save(file, { a = x }, { ["k\0"] = "v" }) end,
      function() return pf.save(file, { a = x }, { k = "v\0" }) end,
      function() return pf.save(cut, { a = x }) end,
      function() return pf.load(cut) end,
      function() return pf.inspect(cut) end,
      function() return pf.checkpoint.save(cut, { model = model }) end,
      function() return pf.checkpoint.load(cut) end,
      function() return pf.checkpoint.model(cut) end,
      function() return pf.checkpoint.mark(folder, "BEST\0", 1) end,
      function() return model:load_stream(cut) end,
      function() return model:load_state(cut) end,
      function() return pf.attention.use_crossover(cut) end,
      function() return pf.data.open { path = cut } end,
      function() return nn.linear { ["from\0"] = 1, to = 1 } end,
      function() return nn.mlp { dim = 4, act = "gelu\0" } end,
      function() return nn.module { name = "a\0b", forward = map } end,
      function() return nn.module { forward = map, ["w\0"] = x } end,
      function() return nn.define("a\0b", map) end,
      function() return pf.kernel.custom { name = "a\0b", map = map } end,
      function() return pf.kernel.custom { map = map, parameters = { ["w\0"] = x } } end,
      function() return pf.optim.adamw(model, { ["lr\0"] = 1 }) end,
      function() return pf.zeros(1, { dtype = "i32\0" }) end,
      function() return x:softmax { ["dim\0"] = 1 } end,
      function() return pf.tokenizer.protein():special "begin\0" end,
      function() return pf.json.encode { ["a\0b"] = 1 } end,
    } do
      local ok, message = pcall(try)
      assert.is_false(ok, i)
      assert.is_truthy(tostring(message):find "must not hold a zero byte", message)
    end
    assert.raises("unknown option 'batch%z'", function() model:stream { ["batch\0"] = 2 } end)
    assert.same({ "x" }, { (next((pf.load(file)))) })
    support.remove(folder)
  end)
end)

describe("what is misused", function()
  local model = nn.performer { vocab = 4, dim = 4, heads = 1, layers = 1, causal = true }

  it("is called what it is", function()
    local optimizer = pf.optim.adamw(model, {})
    optimizer:close()
    assert.raises("an optimizer is needed, got a closed performer.optimizer",
      function() optimizer:step { lr = 1 } end)
    assert.equal("optimizer", pf.kind(optimizer))
    assert.raises("concat: the list of tensors is empty", function() pf.concat({}, 1) end)
    for _, batch in ipairs { 0, -1, 1 << 40 } do
      local told = "batch must be from 1 to 2147483647, got " .. tostring(batch):gsub("%-", "%%-")
      assert.raises(told, function() model:state { batch = batch } end)
      assert.raises(told, function() model:stream { batch = batch } end)
    end
  end)

  it("is told at the user's line", function()
    local kernel = pf.kernel.softmax { head_dim = 4 }
    for pattern, try in pf.sorted {
      ["predict: the sum, .* must be a number, got string"] = function()
        return kernel:predict("a", 1)
      end,
      ["features: the side is \"query\" or \"key\", got nothing"] = function()
        return kernel:features(pf.ones(1, 1, 1, 4))
      end,
      ["features: the side is \"query\" or \"key\", got value"] = function()
        return kernel:features(pf.ones(1, 1, 1, 4), "value")
      end,
      ["projection: head_dim must be a whole number, got 1.5"] = function()
        return kernel:projection(1.5)
      end,
      ["schedule.cosine: 'peak' must be a number from 0 to 1000000, got 'x'"] = function()
        return pf.schedule.cosine { steps = 9, peak = "x" }
      end,
      ["attention.crossover: head_dim must be a whole number, got x"] = function()
        return pf.attention.crossover { head_dim = "x" }
      end,
    } do
      local ok, message = pcall(function() local result = try() return result end)
      assert.is_false(ok)
      assert.is_truthy(message:find("^[^:]*binding_words_spec.lua:%d+: " .. pattern), message)
    end
  end)

  it("is a kernel's seed alike wherever the kernel is named", function()
    for _, seed in ipairs { -1, 1.5, 2 ^ 60, "x", true } do
      local options = { name = "softmax", seed = seed }
      for _, make in ipairs {
        function() return pf.kernel.softmax { seed = seed } end,
        function() return nn.performer { vocab = 4, dim = 4, heads = 1, layers = 1,
                                         kernel = options } end,
        function() return nn.build { type = "attention",
                                     options = { dim = 4, heads = 1, kernel = options } } end,
      } do
        assert.raises("'seed' must be a whole number from 0 to", make)
      end
    end
  end)

  it("is no projection of a kernel that has none", function()
    assert.is_nil(pf.kernel.relu {}:projection())
    assert.raises("give head_dim", function() pf.kernel.softmax {}:projection() end)
    assert.same({ 16, 4 }, { table.unpack(pf.kernel.softmax {}:projection(4):shape()) })
  end)
end)

describe("what is given", function()
  it("prints as what it is", function()
    local folder = support.folder()
    local file = support.write(folder .. "/t.txt", ("hello world "):rep(300))
    local data = pf.data.text { path = file, length = 16 }
    local model = nn.linear { from = 2, to = 2 }
    local path = assert(pf.checkpoint.save(folder .. "/run", { model = model, step = 1 }))
    for pattern, value in pairs {
      ["^engine { blas = .*, threads = %d+, version = \"[%d.]+\" }$"] = pf.info(),
      ["^data {.* format = \"text\", .*rows = %d+"] = data:info(),
      ["^batch {.*input = %[2, 16%] i32.* tokens = 32 }$"] = data:batch { size = 2 },
      ["^kernel { name = \"exact\" }$"] = pf.kernel.exact(),
      ["^checkpoint { model = linear "] = pf.checkpoint.load(path),
      ["^file {.* params = 6, .*tensors = {2 entries}"] = pf.inspect(path),
      ["^report { inputs = {1 entry}, ok = true"] =
        pf.check.gradient(function(x) return (x * x):sum() end, { pf.ones(2) }),
      ["^performer: abs, .*, zeros$"] = pf,
      ["^pf.nn: attention, .*, types$"] = nn,
    } do
      assert.matches(pattern, tostring(value))
    end
    data:close()
    support.remove(folder)
  end)
end)
