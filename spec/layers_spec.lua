-- layers_spec.lua - what every layer of the table holds, walked row by row: what a mask hides
-- changes nothing that is there, documents do not see each other, and what a layer remembers is
-- saved, loaded and goes on with the same bits; with every attention, map and option, and in
-- training too; slices of a row are as the whole.
local layers = require "spec.support.layers"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local B, L, V = layers.B, layers.L, layers.V
local i32 = { dtype = "i32" }

-- Hidden on the left, in the middle, on the right; items differ.
local MASKS = {
  { 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1 },
  { 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1 },
  { 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0 },
}

local function mask_of(list) return pf.tensor(list, i32):reshape(B, L) end

--- y (B, L, ...) at the positions that the mask has.
local function visible(y, list)
  local parts = {}
  for b = 1, B do
    for t = 1, L do
      if list[(b - 1) * L + t] == 1 then parts[#parts + 1] = y:slice(1, b, b):slice(2, t, t) end
    end
  end
  return pf.concat(parts, 2)
end

--- The other way of seeing that a layer has, if any.
local function ways(row)
  return layers.option(row, "causal") and { { causal = true }, { causal = false } }
    or { { causal = true } }
end

local function with(a, b)
  local o = {}
  for key, value in pairs(a) do o[key] = value end
  for key, value in pairs(b) do o[key] = value end
  return o
end

--- Every layer, and attention of every kind and map: f(row, options, name).
local function each_layer(f)
  for _, row in ipairs(pf.layers()) do
    for _, way in ipairs(layers.is_per_position(row) and ways(row) or {}) do
      f(row, with({ conv = 3, ngrams = { buckets = 64, width = 4 } }, way), row.type)
    end
    for _, a in ipairs(row.type == "attention" and layers.attentions() or {}) do
      for _, way in ipairs(ways(row)) do
        f(row, with(a.options, way), row.type .. " " .. a.name)
      end
    end
  end
end

describe("what a mask hides", function()
  it("changes nothing that is there, in any layer", function()
    local count = 0
    each_layer(function(row, options, name)
      local layer = layers.make(row, options)
      for m, list in ipairs(MASKS) do
        local mask = mask_of(list)
        local one = layers.call(layer, { input = layers.input(layer, 1, list, 2), mask = mask })
        local other = layers.call(layer, { input = layers.input(layer, 1, list, 3), mask = mask })
        assert.is_true(visible(one, list):tobytes() == visible(other, list):tobytes(),
          ("%s, mask %d"):format(name, m))
        count = count + 1
      end
    end)
    assert.is_true(count >= 3 * (#pf.layers() - 1))
  end)

  it("gets no gradient from what is there", function()
    each_layer(function(row, options, name)
      local layer = layers.make(row, options)
      if layers.takes_ids(layer) then return end
      for m, list in ipairs(MASKS) do
        local x = layers.input(layer, 1):requires_grad()
        do
          local tape <close> = pf.tape()
          local y = visible(layers.call(layer, { input = x, mask = mask_of(list) }), list)
          tape:backward((y * y):sum())
        end
        local hidden = {}
        for i = 1, #list do hidden[i] = 1 - list[i] end
        local worst = visible(x:grad(), hidden):abs():max():item()
        assert.are.equal(0, worst, ("%s, mask %d"):format(name, m))
      end
    end)
  end)

  it("on the left is as no padding, where nothing counts positions from the first", function()
    each_layer(function(row, options, name)
      if row.type == "positions" then return end
      local layer = layers.make(row, with(options, { positions = "none" }))
      local list = {}
      for i = 1, B * L do list[i] = (i - 1) % L < 3 and 0 or 1 end
      local x = layers.input(layer, 1)
      local padded = layers.call(layer, { input = x, mask = mask_of(list) }):slice(2, 4, L)
      local off = support.distance(padded, layers.call(layer, x:slice(2, 4, L)))
      assert.is_true(off and off <= 2e-5, ("%s is off by %s"):format(name, tostring(off)))
    end)
  end)
end)

describe("documents in a row", function()
  it("do not see each other, in any layer", function()
    local list, first = {}, 4
    for i = 1, B * L do list[i] = (i - 1) % L < first and 0 or 1 end
    local documents = mask_of(list)
    each_layer(function(row, options, name)
      local layer = layers.make(row, options)
      local x, other = layers.input(layer, 1), layers.input(layer, 2)
      local after = pf.concat({ other:slice(2, 1, first), x:slice(2, first + 1, L) }, 2)
      local y = layers.call(layer, { input = x, documents = documents }):slice(2, first + 1, L)
      local changed = layers.call(layer, { input = after, documents = documents })
        :slice(2, first + 1, L)
      assert.is_true(y:tobytes() == changed:tobytes(), name)
      local off = support.distance(y, layers.call(layer, x:slice(2, first + 1, L)))
      assert.is_true(off and off <= 2e-5, ("%s is off by %s"):format(name, tostring(off)))
    end)
  end)
end)

-- ---- slices -------------------------------------------------------------------------------

describe("a row in slices", function()
  local N = 40 -- as many as two slices and a bit have

  local function rows(f)
    local list = {}
    for b = 1, B do
      list[b] = {}
      for t = 1, N do list[b][t] = f(b, t) end
    end
    return pf.tensor(list, i32)
  end

  local batch = { input = rows(function(b, t) return (t * t + 3 * b) % V end),
                  target = rows(function(b, t) return t % 7 == b and -1 or (t + b) % V end),
                  documents = rows(function(b, t) return (t + 3 * b) // 23 end),
                  mask = rows(function(b, t) return t < 34 + b and 1 or 0 end) }

  --- name -> gradient, which is cleared.
  local function take(model)
    local grads, list, names = {}, model:parameters()
    for i, p in ipairs(list) do
      grads[names[i]] = p:grad() and p:grad():detach()
      p:clear_grad()
    end
    return grads
  end

  local function near(name, want, got, tolerance)
    for key, grad in pairs(want) do
      local off, why = support.distance(got[key], grad)
      assert.is_true(off and off <= tolerance, ("%s, %s: %s"):format(name, key, off or why))
    end
  end

  --- Holds slices against the whole; false: the model says that it has none.
  local function holds(model, name)
    local fine, whole = pcall(model.evaluate, model, batch)
    if not fine then return nil end -- positions that end before
    local part
    fine, part = pcall(model.evaluate, model, batch, { slice_length = 17 })
    if not fine then
      assert.matches("attention", part)
      return false
    end
    assert.is_true(math.abs(part.loss - whole.loss) <= 1e-4 * whole.loss, name)
    assert.are.equal(whole.tokens, part.tokens)
    do
      local tape <close> = pf.tape()
      tape:backward(model:loss(batch, { training = false }))
    end
    local want = take(model)
    model:backward_sliced(batch, { slice_length = 17, levels = 2, training = false })
    near(name, want, take(model), 1e-3)
    return true
  end

  it("has the losses and gradients of the whole, by all rows of all tables", function()
    local performer, count = nil, { [true] = 0, [false] = 0 }
    for _, row in ipairs(pf.layers()) do
      if row.type == "performer" then performer = row end
    end
    local function walk(options, name)
      local answer = holds(layers.make(performer, with({ causal = true, conv = 3 }, options)), name)
      if answer ~= nil then count[answer] = count[answer] + 1 end
    end
    for _, a in ipairs(layers.attentions()) do walk(a.options, a.name) end
    for _, v in ipairs(layers.variants(performer)) do
      if not v.whole then walk(v.options, v.name) end
    end
    for _, v in ipairs(layers.kernels()) do
      if not v.full then walk({ kernel = v.kernel }, v.name) end
    end
    assert.is_true(count[true] > 40 and count[true] > 10 * count[false])
  end)
end)

-- ---- what is remembered ------------------------------------------------------------------

describe("what is remembered", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function position(x, t)
    local sizes = { table.unpack(x:shape()) }
    table.remove(sizes, 2)
    return x:slice(2, t, t):reshape(sizes)
  end

  --- Outputs of two steps and a prompt as bytes.
  local function go_on(layer, x, state)
    local a, b = layer:step(position(x, 7), state), layer:step(position(x, 8), state)
    return a:tobytes() .. b:tobytes() .. layer:prefill(x:slice(2, 8, L), state):tobytes()
  end

  --- Streams, saves in the middle, loads and goes on; a fork beside it.
  local function resumes(layer, name)
    local x, state, path = layers.input(layer, 4), layers.state(layer, B), folder .. "/state"
    layer:prefill(x:slice(2, 1, 4), state)
    for t = 5, 6 do layer:step(position(x, t), state) end
    assert.is_true(state:save(path), name)
    local loaded, fork = assert(layer:load_state(path)), state:fork()
    local bytes = go_on(layer, x, state)
    assert.is_true(bytes == go_on(layer, x, loaded), name .. ": the loaded state goes elsewhere")
    assert.is_true(bytes == go_on(layer, x, fork), name .. ": the fork goes elsewhere")
    assert.are.equal(state:position(), loaded:position())
    -- It does remember: without the state the same calls give other bits, or it needs none.
    return bytes ~= go_on(layer, x, layers.state(layer, B))
  end

  --- A layer as a model of ids, with the letters of the vocabulary for outputs.
  local function as_model(layer)
    local x, parts = layers.input(layer, 4), { layer }
    local width = layers.call(layer, x):size(3)
    if x:dtype() ~= "i32" then
      table.insert(parts, 1, nn.embedding { vocab = V, dim = x:size(3) })
    elseif width == V then
      return layer
    end
    parts[#parts + 1] = nn.linear { from = width, to = V }
    return nn.chain(parts)
  end

  --- In a running batch, where others are at other positions, it has the bits that it has alone.
  local function serves(layer, name)
    local model = as_model(layer)
    local serving <close> = model:serve { slice = 2 }
    local prompts, streams, tokens = { { 1, 2, 3 }, { 4 }, { 5, 6 } }, {}, {}
    for step = 1, 8 do
      local prompt, o = prompts[step], layers.inputs(model, 1)
      if prompt then
        local stream = model:stream(o)
        for i = 1, #prompt, 2 do
          stream:feed { table.unpack(prompt, i, math.min(i + 1, #prompt)) }
        end
        o.prompt = prompt
        streams[serving:join(o)] = stream
      end
      for _, one in ipairs(serving:step()) do
        local stream, last = streams[one.id], tokens[one.id]
        local want = last and stream:next(last) or stream:sample()
        tokens[one.id] = one.token
        assert.are.equal(want, one.token, name)
        assert.is_true(stream:logits():tobytes() == serving:logits(one.id):tobytes(),
          name .. ": not the bits of a stream")
      end
    end
    assert.are.equal(3, #tokens)
  end

  --- Steps of training, numbered by the optimizer.
  local function train(model, opt, steps)
    for _ = 1, steps do
      local tape <close> = pf.tape()
      local x = layers.input(model, 10 + opt:steps())
      local y = layers.call(model, x, { training = true, step = opt:steps() + 1 })
      tape:backward(y:cross_entropy(x))
      opt:step { lr = 1e-2 }
    end
  end

  --- Trains, saves, loads and trains on.
  local function trains_on(model, optimizer, name)
    local opt = pf.optim[optimizer](model)
    train(model, opt, 2)
    assert(pf.checkpoint.save(folder .. "/run", { model = model, optimizer = opt }))
    local saved = assert(pf.checkpoint.load(folder .. "/run"))
    train(model, opt, 2)
    train(saved.model, saved.optimizer, 2)
    for key, t in pf.sorted(model:tensors()) do
      assert.is_true(t:tobytes() == saved.model:tensors()[key]:tobytes(), name .. ": " .. key)
    end
    support.remove(folder .. "/run")
  end

  local function row_of(name)
    for _, row in ipairs(pf.layers()) do
      if row.type == name then return row end
    end
  end

  --- A layer in Lua with a memory, and a map of one's own.
  local function own()
    local kernel = pf.kernel.custom { name = "layers_spec",
      map = function(x) return x:elu() + 1 end }
    local layer = { name = "sums", forward = function(_, x) return x end }
    function layer.step(_, x, state)
      state.sum = state.sum and state.sum + x or x:detach()
      return x + state.sum
    end
    pf.seed(5)
    return nn.chain { nn.embedding { vocab = V, dim = 8 }, layer,
      nn.attention { dim = 8, heads = 2, causal = true, kernel = kernel }, nn.linear { from = 8,
      to = V } }, kernel
  end

  it("is saved, loaded and served with the same bits, by all rows of all tables", function()
    local done, moved, performer = {}, {}, row_of "performer"
    local function count(what) done[what] = (done[what] or 0) + 1 end
    for _, row in ipairs(pf.layers()) do
      local more = { causal = true, conv = 3, ngrams = { buckets = 64, width = 4 } }
      if layers.is_per_position(row) and layers.streams(row) then
        moved[row.type] = resumes(layers.make(row, more), row.type)
        serves(layers.make(row, more), row.type)
        count "layers"
      end
    end
    for _, name in ipairs { "ngrams", "positions", "conv", "shift", "attention", "chain",
                            "performer" } do
      assert.is_true(moved[name], name .. " remembers nothing")
    end
    for _, a in ipairs(layers.attentions()) do
      local model = layers.make(performer, with(a.options, { causal = true, conv = 2 }))
      if a.kind.streams then
        resumes(model, a.name)
        serves(model, a.name)
      else
        assert.raises("can't stream", function() layers.state(model, B) end)
      end
      count "attentions"
    end
    for _, v in ipairs(layers.variants(performer)) do
      local model = layers.make(performer, with({ causal = true }, v.options))
      if v.whole then
        assert.raises("can't stream", function() layers.state(model, B) end)
      else
        resumes(model, v.name)
        serves(model, v.name)
      end
      count "options"
    end
    for _, v in ipairs(layers.kernels()) do
      if not v.full then
        local model = layers.make(performer, { causal = true, kernel = v.kernel })
        resumes(model, v.name)
        serves(model, v.name)
        count "kernels"
      end
    end
    local layer, kernel = own()
    assert.is_true(resumes(layer, "layers and maps in Lua"))
    serves(layer, "layers and maps in Lua")
    assert.is_truthy(kernel)
    print(("\nsaved, loaded and went on: %d layers, %d attentions x maps, %d options, %d of " ..
      "kernels, 1 in Lua: all equal"):format(done.layers, done.attentions, done.options,
      done.kernels))
  end)

  it("in training is in a checkpoint: all rows, options and optimizers", function()
    local performer, done = row_of "performer",
      { attentions = 0, kernels = 0, options = 0, optimizers = 0 }
    local base = { causal = true, conv = 3, dropout = 0.2, ngrams = { buckets = 64, width = 4 } }
    for _, a in ipairs(layers.attentions()) do
      local o = with(base, a.options)
      if o.kernel then o.kernel = with(o.kernel, { redraw = 3 }) end
      trains_on(layers.make(performer, o), "adamw", a.name)
      done.attentions = done.attentions + 1
    end
    for _, v in ipairs(layers.kernels()) do
      local kernel = with(v.kernel, { redraw = 3 })
      local o = with(base, { kernel = kernel, causal = not v.full })
      trains_on(layers.make(performer, o), "adamw", v.name)
      done.kernels = done.kernels + 1
    end
    for _, v in ipairs(layers.variants(performer)) do
      trains_on(layers.make(performer, with(base, v.options)), "adamw", v.name)
      done.options = done.options + 1
    end
    for _, row in ipairs(pf.optimizers()) do
      trains_on(layers.make(performer, base), row.name, row.name)
      done.optimizers = done.optimizers + 1
    end
    print(("\ntrained, loaded and trained on: %d attentions x maps, %d options, %d of " ..
      "kernels, %d optimizers: all equal"):format(done.attentions, done.options, done.kernels,
      done.optimizers))
  end)
end)
