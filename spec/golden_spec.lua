-- golden_spec.lua - what earlier versions wrote still loads, word for word, and goes on with the
-- bits that it had then: checkpoints, a stream, states of attention, and a run of `train`. The
-- files and what must come of them are in spec/golden/VERSION/ (make.lua wrote them, play.lua
-- says what is done with them). [versions.7]
--
-- Bits are those of PF_CPU=avx2, where every sum is the engine's own; at the generic level the
-- products are a BLAS's, with bits of its version and processor, so there (and on machines
-- without AVX2) results are held to be close. From the C library come sin, cos, exp, log and pow
-- in double (rotary angles, random rows) and logf, expf and powf (the last step of a logsumexp,
-- shifts between blocks): `libm` in the file of results is a sample of them, and where a machine's
-- differ, results are held to be close as well.
local child = require "spec.support.child"
local lfs = require "lfs"
local pf = require "performer"
local play = require "spec.golden.play"
local support = require "spec.support"

local ROOT = "spec/golden"
-- Of the largest value, where bits can't be promised: three steps of training lie between.
local CLOSE = 2e-5

local function versions()
  local list = {}
  for name in lfs.dir(ROOT) do
    if name:find "^%d" then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

--- What a process of its own, at a CPU level, gets from a folder: {name = tensor}.
local function played(folder, level)
  local path = os.tmpname()
  child.run(([[
    local play = require "spec.golden.play"
    assert(pf.save(%q, play.all(%q)))]]):format(path, folder), "{threads = 2}", { PF_CPU = level })
  local results = assert(pf.load(path))
  os.remove(path)
  return results
end

--- Is this machine's C library the one that a folder's results were made with?
local function same_libm(expected) return play.libm():tobytes() == expected.libm:tobytes() end

--- One result against what it was: the same bits, or close.
local function assert_result(name, want, got, exactly)
  assert.are.equal("tensor", pf.kind(got), name)
  local distance, why = support.distance(got, want)
  assert.is_truthy(distance and distance <= CLOSE, ("%s is off by %s"):format(name,
    distance or why))
  if exactly and got:tobytes() ~= want:tobytes() then
    error(("%s has other bits: off by %.3g of the largest"):format(name, distance))
  end
end

--- A log's losses as text against what they were, likewise.
local function assert_log(want, got, exactly)
  if exactly then return assert.are.equal(want, got) end
  local next_word = got:gmatch "%S+"
  for word in want:gmatch "%S+" do
    local a, b = tonumber(word), tonumber(next_word() or "nothing")
    assert.is_true(not a or b and math.abs(a - b) <= CLOSE * math.abs(a), word)
  end
  assert.is_nil(next_word())
end

--- Does this machine have AVX2?
local function has_avx2()
  return not child.run("print(pf.info().cpu)", "{}", { PF_CPU = false }):find "generic"
end

--- Fails unless `now` has all that `before` has, tables inside likewise; `where` names the place.
local function assert_kept(before, now, where)
  if type(before) ~= "table" then
    assert.are.equal(before, now, where)
    return
  end
  assert.are.equal("table", type(now), where)
  for key, value in pairs(before) do assert_kept(value, now[key], where .. "." .. tostring(key)) end
end

--- A model's tree without the two options by which it says its attention: both ways of saying it
--- are read for ever (the specs below load them), one of them is written.
local function plain_tree(tree)
  local options = assert(tree.options)
  options.attention = nil
  if options.kernel then options.kernel.name = nil end
  return tree
end

local function json(path) return assert(pf.json.decode(support.read(path))) end

--- Fails unless a file of tensors has all names, bits and words of an older one.
local function assert_same_file(before, now)
  local old, old_words = assert(pf.load(before))
  local new, new_words = assert(pf.load(now))
  for name, tensor in pairs(old) do
    assert.is_truthy(new[name], ("%s: %s is gone"):format(before, name))
    assert.bits_equal(tensor, new[name])
  end
  old_words.checksum = nil -- over all of the file, and held when it was loaded
  assert_kept(old_words, new_words, before)
end

for _, version in ipairs(versions()) do
  local folder = ROOT .. "/" .. version
  describe("what version " .. version .. " wrote", function()
    local expected, path

    setup(function()
      expected = assert(pf.load(folder .. "/expected.safetensors"))
      path = support.folder()
    end)

    teardown(function() support.remove(path) end)

    it("gives the bits that it gave then", function()
      if not has_avx2() then return pending "this machine has no AVX2" end
      local results = played(folder, "avx2")
      local exactly = same_libm(expected)
      for name, want in pf.sorted(expected) do
        if name ~= "libm" then assert_result(name, want, results[name], exactly) end
      end
    end)

    it("gives close results from another CPU level's kernels", function()
      local results = played(folder, "generic")
      for name, want in pf.sorted(expected) do
        if name ~= "libm" then assert_result(name, want, results[name], false) end
      end
    end)

    it("trains as it did, and goes on where it stopped", function()
      if not has_avx2() then return pending "this machine has no AVX2" end
      local program = ("env PF_CPU=avx2 %s/bin/performer"):format(support.build)
      local exactly = same_libm(expected)
      play.new_run(folder, path .. "/new", program)
      assert_log(play.log(folder .. "/run"), play.log(path .. "/new"), exactly)
      play.resume(folder, path .. "/resumed", program)
      assert_log(support.read(folder .. "/run_resumed.txt"), play.log(path .. "/resumed"), exactly)
    end)

    it("knows every way to say an attention", function()
      local words = { grown = "kernel softmax", exact = "kernel exact", identity = "identity nil",
                      auto = "favor softmax_hyp", relu = "kernel relu" }
      for name, want in pf.sorted(words) do
        local options = json(("%s/%s/step-5/config.json"):format(folder, name)).options
        assert.are.equal(want, ("%s %s"):format(options.attention,
          options.kernel and options.kernel.name))
        assert.are.equal("module", pf.kind(assert(pf.checkpoint.model(folder .. "/" .. name))))
      end
    end)

    for _, name in ipairs(play.checkpoints) do
      it("has the words of a checkpoint: " .. name, function()
        local loaded = assert(pf.checkpoint.load(folder .. "/" .. name))
        assert.are.equal("kept as they are", loaded.state.words)
        loaded.tokenizer = "byte"
        local saved = assert(pf.checkpoint.save(path .. "/" .. name, loaded))
        local old = folder .. "/" .. name .. "/step-5"
        assert.is_truthy(saved:find "/step%-5$")
        assert_kept(plain_tree(json(old .. "/config.json")),
          plain_tree(json(saved .. "/config.json")), "config.json")
        assert_kept(json(old .. "/state.json"), json(saved .. "/state.json"), "state.json")
        for _, file in ipairs { "model", "optimizer" } do
          assert_same_file(("%s/%s.safetensors"):format(old, file),
            ("%s/%s.safetensors"):format(saved, file))
        end
      end)
    end

    if lfs.attributes(folder .. "/of_lua") then
      it("had attention of a custom kernel as a layer of Lua's, which trains on as one", function()
        play.define_of_lua()
        local loaded = assert(pf.checkpoint.load(folder .. "/of_lua"))
        local results = play.train_of_lua(loaded.model, loaded.optimizer)
        for name, want in pf.sorted(assert(pf.load(folder .. "/of_lua.safetensors"))) do
          assert_result(name, want, results[name], false)
        end
      end)
    end

    for _, name in ipairs(play.states) do
      it("has the words of a state of attention: " .. name, function()
        local saved = path .. "/state"
        assert(play.load_state(folder, name):save(saved))
        assert_same_file(("%s/state_%s.safetensors"):format(folder, name), saved)
      end)
    end

    for name, tokens in pf.sorted(play.streams) do
      it("has the words of a stream: " .. name, function()
        local stream = play.load_stream(folder, name)
        assert.are.equal(tokens, stream:position())
        assert(stream:save(path .. "/stream"))
        assert_same_file(("%s/stream_%s.safetensors"):format(folder, name), path .. "/stream")
      end)
    end
  end)
end
