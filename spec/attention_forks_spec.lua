-- attention_forks_spec.lua - what can be done with a state of attention besides moving it on:
-- batches, forks, other orders, merges, files. Models' streams: streaming_spec.
local pf = require "performer"
local array = require "spec.support.array"
local trial = require "spec.support.trial"

local H, D, DV = trial.H, trial.D, trial.DV
local inputs, tensors, assert_close = trial.inputs, trial.tensors, trial.assert_close

--- Every attention, and a kernel written in Lua.
local function attentions()
  local list = trial.attentions()
  list[#list + 1] = { name = "custom", kernel = pf.kernel.custom {
    map = function(x) return pf.concat({ x:softmax(-1), (-x):softmax(-1) }, -1) end } }
  return list
end

local function new_state(a, B, decay)
  return pf.attention.state { kernel = a.kernel or "exact", batch = B, heads = H, head_dim = D,
    value_dim = DV, decay = decay }
end

--- Positions first .. last of q, k, v, of batch rows `rows` (all of them without).
local function part(list, first, last, row)
  local parts = {}
  for i, t in ipairs(list) do
    if row then t = t:slice(1, row, row) end
    parts[i] = t:slice(3, first, last)
  end
  return table.unpack(parts)
end

--- Steps over positions first .. last; their outputs as bytes.
local function steps(state, list, first, last, row)
  local bytes = {}
  for t = first, last do bytes[#bytes + 1] = state:step(part(list, t, t, row)):tobytes() end
  return table.concat(bytes)
end

local path
before_each(function() path = os.tmpname() end)
after_each(function() os.remove(path) end)

for number, a in ipairs(attentions()) do
  describe(a.name .. " states:", function()
    local B, L = 3, 24
    local list = { tensors(inputs(B, L, 100 + number)) }

    it("a batch gives each item what it gets alone, bit for bit", function()
      local all = new_state(a, B)
      all:prefill(part(list, 1, 9))
      local together = {}
      for t = 10, 14 do together[t] = all:step(part(list, t, t)) end
      for row = 1, B do
        local alone = new_state(a, 1)
        alone:prefill(part(list, 1, 9, row))
        for t = 10, 14 do
          assert.is_true(together[t]:slice(1, row, row):tobytes() ==
            alone:step(part(list, t, t, row)):tobytes())
        end
      end
    end)

    it("prefills in a row and steps equal the whole", function()
      local whole = new_state(a, B):prefill(table.unpack(list))
      local state, parts = new_state(a, B), {}
      for _, range in ipairs { { 1, 7 }, { 8, 8 }, { 9, 17 } } do
        parts[#parts + 1] = state:prefill(part(list, table.unpack(range)))
      end
      for t = 18, L do parts[#parts + 1] = state:step(part(list, t, t)) end
      assert_close(array.of(whole), array.of(pf.concat(parts, 3)), L * DV, 1e-5, "the parts")
    end)

    it("reorder takes rows, some of them twice", function()
      local state, rows = new_state(a, B), { 3, 1, 3, 2 }
      state:prefill(part(list, 1, 6))
      steps(state, list, 7, 9)
      local kept = state:fork()
      assert.are.equal(state, state:reorder(rows))
      assert.are.equal(4, state:batch())
      assert.are.equal(9, state:position())
      local more = { tensors(inputs(4, 2, 200 + number)) }
      local out = state:step(part(more, 1, 1))
      for to, from in ipairs(rows) do
        local one = kept:fork():reorder { from }
        assert.is_true(one:step(part(more, 1, 1, to)):tobytes() ==
          out:slice(1, to, to):tobytes())
      end
      assert.has_error(function() state:reorder { 5 } end)
      assert.has_error(function() state:reorder { 0 } end)
      assert.has_error(function() state:reorder {} end)
      assert.are.equal(4, state:batch())
    end)

    it("a state merged with that of the next segment is the state of both", function()
      for _, cut in ipairs { 1, 11 } do
        local both, first, second = new_state(a, B), new_state(a, B), new_state(a, B)
        both:prefill(part(list, 1, 20))
        first:prefill(part(list, 1, cut))
        second:prefill(part(list, cut + 1, 15))
        steps(second, list, 16, 20)
        local left = second:fork()
        assert.are.equal(first, first:merge(second))
        assert.are.equal(20, first:position())
        assert_close(array.of(both:step(part(list, 21, 21))),
          array.of(first:step(part(list, 21, 21))), DV, 1e-5, "the merged state")
        assert.is_true(steps(left, list, 21, 22) == steps(second, list, 21, 22))
      end
    end)

    it("an empty state merges as nothing", function()
      local state, judge = new_state(a, B), new_state(a, B)
      state:prefill(part(list, 1, 5))
      judge:prefill(part(list, 1, 5))
      state:merge(new_state(a, B))
      state = new_state(a, B):merge(state)
      assert_close(array.of(judge:step(part(list, 6, 6))), array.of(state:step(part(list, 6, 6))),
        nil, 1e-6, "it")
    end)

    it("a saved state goes on with the same bits", function()
      local state = new_state(a, B)
      state:prefill(part(list, 1, 6))
      steps(state, list, 7, 9)
      assert.is_true(state:save(path))
      local loaded = assert(pf.attention.load_state(path, { kernel = a.kernel or "exact" }))
      assert.are.equal(9, loaded:position())
      assert.are.equal(B, loaded:batch())
      if not a.exact then assert.are.equal(state:bytes(), loaded:bytes()) end
      assert.is_true(steps(state, list, 10, 12) == steps(loaded, list, 10, 12))
      assert.is_true(state:prefill(part(list, 13, L)):tobytes() ==
        loaded:prefill(part(list, 13, L)):tobytes())
    end)
  end)
end

describe("heads that forget", function()
  local softmax = { kernel = pf.kernel.softmax { head_dim = D, features = 16, seed = 4 } }
  local decay = pf.tensor { 0.3, 0.01 }
  for name, a in pairs { softmax = softmax, exact = { exact = true } } do
    it(name .. ": steps, merges and files keep the distances", function()
      local list = { tensors(inputs(2, 30, 301)) }
      local whole = trial.attend(a, list[1], list[2], list[3], { causal = true, decay = decay })
      local state, second = new_state(a, 2, decay), new_state(a, 2, decay)
      state:prefill(part(list, 1, 8))
      steps(state, list, 9, 12)
      second:prefill(part(list, 13, 18))
      steps(second, list, 19, 20)
      state:merge(second)
      assert.is_true(state:save(path))
      state = assert(pf.attention.load_state(path, { kernel = a.kernel or "exact",
        decay = decay }))
      local out = {}
      for t = 21, 30 do out[#out + 1] = state:step(part(list, t, t)) end
      assert_close(array.of(whole:slice(3, 21, 30)), array.of(pf.concat(out, 3)), 10 * DV, 1e-5,
        "the stream")
      local none, message, code = pf.attention.load_state(path, { kernel = a.kernel or "exact",
        decay = pf.tensor { 0.3, 0.02 } })
      assert.is_nil(none)
      assert.truthy(message:find("decay", 1, true))
      assert.are.equal("PF_EFORMAT", code)
    end)
  end
end)

describe("groups of heads", function()
  it("step and prefill alike: a head of keys for two of queries", function()
    local kernel = pf.kernel.softmax { head_dim = D, features = 16, seed = 4 }
    for _, a in ipairs { kernel, "exact", "relu" } do
      local state = pf.attention.state { kernel = a, heads = 1, head_dim = D, value_dim = DV }
      local random = array.random(7)
      local function draw(heads, width)
        return array.tensor(random:normals { 1, heads, 12, width })
      end
      local list = { draw(2, D), draw(1, D), draw(1, DV) }
      local parts = { state:prefill(part(list, 1, 5)) }
      for t = 6, 12 do parts[#parts + 1] = state:step(part(list, t, t)) end
      local out = pf.concat(parts, 3)
      for h = 1, 2 do
        local alone = pf.attention.state { kernel = a, heads = 1, head_dim = D, value_dim = DV }
        local want = alone:prefill(list[1]:slice(2, h, h), list[2], list[3])
        assert_close(array.of(want), array.of(out:slice(2, h, h)), nil, 1e-5, "head " .. h)
      end
    end
  end)
end)

-- ---- files that can't be taken -----------------------------------------------------------

describe("a file of a state", function()
  local options = { head_dim = D, features = 16, seed = 4 }
  local kernel = pf.kernel.softmax(options)

  local function saved()
    local state = new_state({ kernel = kernel }, 2)
    state:prefill(part({ tensors(inputs(2, 9, 400)) }, 1, 9))
    assert.is_true(state:save(path))
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end

  local function refused(content, words, o)
    local file <close> = assert(io.open(path, "wb"))
    file:write(content)
    file:close()
    local none, message, code = pf.attention.load_state(path, o)
    assert.is_nil(none)
    assert.truthy(message:find(words or "", 1, true), message)
    assert.is_string(code)
    return message
  end

  it("says its kernel itself", function()
    saved()
    local state = assert(pf.attention.load_state(path))
    assert.are.equal(9, state:position())
  end)

  it("of another kernel is refused, and says why", function()
    local content = saved()
    local function other(name, more)
      local o = { head_dim = D, features = 16, seed = 4 }
      for key, value in pairs(more or {}) do o[key] = value end
      return { kernel = pf.kernel[name](o) }
    end
    refused(content, "projection", other("softmax", { seed = 5 }))
    refused(content, "kernel", other("softmax", { scale = 0.61 }))
    refused(content, "kernel", other("softmax", { features = 32 }))
    refused(content, "feature map", other "relu")
    refused(content, "kind of attention", { kernel = "exact" })
    refused(content, "custom", { kernel = pf.kernel.custom { map = function(x) return x end } })
    assert.truthy(pf.attention.load_state(path, other "softmax"))
  end)

  it("of a custom kernel needs that kernel", function()
    local function power(p)
      return pf.kernel.custom { map = function(x) return (x * p):exp() end }
    end
    local state = pf.attention.state { kernel = power(1) }
    assert.has_error(function() state:save(path) end)
    state:prefill(part({ tensors(inputs(1, 9, 401)) }, 1, 9))
    assert.is_true(state:save(path))
    local none, message = pf.attention.load_state(path)
    assert.is_nil(none)
    assert.truthy(message:find("custom", 1, true))
    none, message = pf.attention.load_state(path, { kernel = power(1.1) })
    assert.is_nil(none)
    assert.truthy(message:find("kernel", 1, true))
    assert.truthy(pf.attention.load_state(path, { kernel = power(1) }))
  end)

  it("that is damaged anywhere is refused", function()
    local content = saved()
    local random, header = array.random(9), string.unpack("<I8", content)
    local function below(n) return math.floor(random:uniform() * n) end
    for cut = 0, #content - 1, #content // 40 do refused(content:sub(1, cut)) end
    for i = 1, 60 do
      local at = i <= 20 and 9 + below(header) or 9 + header + below(#content - header - 8)
      local byte = content:byte(at) ~ (1 << below(7))
      local changed = content:sub(1, at - 1) .. string.char(byte) .. content:sub(at + 1)
      -- A blank of the header's padding may become another one.
      if not (content:byte(at) == 32 and at <= 8 + header) then refused(changed) end
    end
    refused(content .. "x")
    refused ""
  end)

  it("that holds something else, or is not there, says so", function()
    assert.is_true(pf.save(path, { s = pf.ones(2, 2) }))
    local none, message, code = pf.attention.load_state(path)
    assert.is_nil(none)
    assert.truthy(message:find("no state", 1, true))
    assert.are.equal("PF_EFORMAT", code)
    none, message, code = pf.attention.load_state "/no/such/file"
    assert.is_nil(none)
    assert.truthy(message:find("/no/such/file", 1, true))
    assert.is_string(code)
  end)
end)

describe("states of different kernels", function()
  it("don't merge", function()
    local function state(name, seed, B)
      return new_state({ kernel = pf.kernel[name] { head_dim = D, features = 16, seed = seed } }, B)
    end
    local one = state("softmax", 1, 2)
    for _, other in ipairs { state("softmax", 2, 2), state("relu", 1, 2), state("softmax", 1, 3),
      new_state({ exact = true }, 2) } do
      assert.has_error(function() one:merge(other) end)
    end
    one:merge(state("softmax", 1, 2))
  end)
end)
