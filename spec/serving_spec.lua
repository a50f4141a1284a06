-- serving_spec.lua - model:serve: sequences that join and leave a running batch get what streams of
-- their own give, and Lua's words for it; what C sees of it (failures of memory, every attention):
-- spec/c/serving_test.c, serving_whole_test.c.
local pf = require "performer"

local nn = pf.nn

local function model_of(more)
  pf.seed(3)
  local options = { vocab = 11, dim = 16, layers = 2, heads = 2, causal = true, conv = 3,
                    kernel = { features = 16 } }
  for key, value in pairs(more or {}) do options[key] = value end
  return nn.performer(options)
end

--- Tokens by id until all have ended; `each(step)` before each step.
local function drain(serving, each)
  local ids, ended, step = {}, {}, 0
  repeat
    step = step + 1
    if each then each(step) end
    local made, going = serving:step()
    for _, one in ipairs(made) do
      local list = ids[one.id] or {}
      ids[one.id], list[#list + 1] = list, one.token
      if one.ended then
        ended[one.id] = one
        serving:leave(one.id)
      end
    end
  until going == 0
  return ids, ended
end

--- What a stream says after a prompt.
local function alone(model, prompt, n, sampling, inputs)
  local stream = model:stream(inputs)
  stream:feed(prompt)
  local ids = { stream:sample(sampling) }
  for i = 2, n do ids[i] = stream:next(ids[i - 1], sampling) end
  return ids
end

describe("a serving", function()
  it("gives each sequence what it has alone, whenever it joins", function()
    local model = model_of()
    local serving <close> = model:serve { slice = 4 }
    local prompts = { { 1 }, { 2, 3, 4 }, { 5, 6, 7, 8, 9, 10, 0, 1, 2 }, { 3, 3 } }
    local given = {}
    local ids = drain(serving, function(step)
      local prompt = prompts[step]
      if not prompt then return end
      local id = serving:join { prompt = prompt, tokens = 6 + step, temperature = 0.9, top_k = 7,
                                seed = step }
      assert.equal(step, id)
      given[id] = { prompt = prompt, n = 6 + step, sampling = { temperature = 0.9, top_k = 7,
                                                                seed = step } }
    end)
    for id, g in pairs(given) do
      local stream = model:stream()
      for i = 1, #g.prompt, 4 do
        stream:feed { table.unpack(g.prompt, i, math.min(i + 3, #g.prompt)) }
      end
      local want = { stream:sample(g.sampling) }
      for i = 2, g.n do want[i] = stream:next(want[i - 1], g.sampling) end
      assert.same(want, ids[id])
    end
    assert.equal(0, serving:count())
  end)

  it("has logits, place and bytes of each", function()
    local model = model_of()
    local serving = model:serve()
    local a, b = serving:join { prompt = { 1, 2, 3 } }, serving:join { prompt = { 4 } }
    assert.same({ position = 0, waiting = 3, tokens = 0, bytes = serving:bytes() / 2 },
      serving:sequence(a))
    assert.error_matches(function() serving:logits(a) end, "still waits")
    serving:step()
    serving:step()
    local one, stream = serving:sequence(a), model:stream()
    stream:feed { 1, 2, 3 }
    stream:next(stream:sample())
    assert.same({ 4, 0, 2, stream:bytes() }, { one.position, one.waiting, one.tokens, one.bytes })
    assert.is_true(serving:logits(a):tobytes() == stream:logits():tobytes())
    assert.matches("2 sequences", tostring(serving))
    serving:leave(b)
    assert.error_matches(function() serving:leave(b) end, "any more")
    assert.error_matches(function() serving:sequence(9) end, "no sequence 9")
    serving:close()
    assert.error_matches(function() serving:step() end, "closed")
  end)

  it("ends a sequence at its stops, after its tokens, or when it fails by itself", function()
    local model = model_of { positions = "learned", length = 12 }
    local serving = model:serve { capacity = 3 }
    local want = alone(model, { 1, 2 }, 5)
    local stopped = serving:join { prompt = { 1, 2 }, stop = { 99, want[3] } }
    local counted = serving:join { prompt = { 1, 2 }, tokens = 2 }
    local long = serving:join { prompt = { 1, 2 } }
    assert.error_matches(function() serving:join { prompt = { 1 } } end, "capacity")
    local ids, ended = drain(serving)
    local first = 1
    while want[first] ~= want[3] do first = first + 1 end
    assert.same({ table.unpack(want, 1, first) }, ids[stopped])
    assert.same({ want[1], want[2] }, ids[counted])
    assert.equal(11, #ids[long])
    assert.same({ "stop", "tokens", "failed" },
      { ended[stopped].ended, ended[counted].ended, ended[long].ended })
    assert.equal("PF_EINVAL", ended[long].code)
    assert.matches("learned table holds 12", ended[long].message)
  end)

  it("takes texts where it has their tokenizer", function()
    local model = model_of { vocab = 256 }
    local serving = model:serve()
    local id = serving:join { prompt = "ab", tokenizer = "byte", tokens = 3, stop = "\n" }
    assert.same(alone(model, { 97, 98 }, 3), drain(serving)[id])
    assert.error_matches(function() serving:join { prompt = "ab" } end, "tokenizer")
    assert.error_matches(function()
      serving:join { prompt = "ab", tokenizer = "byte", stop = "end" }
    end, "'end' is 3 tokens")
  end)

  it("draws what is allowed, by another sampling from now on", function()
    local serving = model_of():serve()
    local a = serving:join { prompt = { 1 }, allow = { 2, 5 }, temperature = 9, tokens = 30 }
    local b = serving:join { prompt = { 1 } }
    for _ = 1, 10 do
      for _, one in ipairs(serving:step()) do
        assert.is_true(one.id == b or one.token == 2 or one.token == 5)
      end
    end
    serving:allow(a, { 7 })
    assert.equal(7, serving:step()[1].token)
    serving:allow(a)
    serving:sampling(a, { temperature = 0 })
    local made = serving:step()
    assert.equal(serving:logits(a):argmax(1):item() - 1, made[1].token)
    assert.error_matches(function()
      serving:join { prompt = { 1 }, allow = { 11 } }
    end, "allow has 11")
    assert.error_matches(function() serving:allow(a, { -1 }) end, "no token")
    assert.equal(2, serving:count())
  end)

  it("lets sequences out as streams and in again", function()
    local model = model_of { attentions = { "exact", "favor" } }
    local serving, path = model:serve(), os.tmpname()
    local a = serving:join { prompt = { 1, 2, 3 } }
    for _ = 1, 4 do serving:step() end
    local out = serving:fork(a)
    assert.equal(6, out:position())
    out:feed { serving:sequence(a).last }
    assert.is_true(out:save(path))
    local b = serving:join { stream = model:load_stream(path) }
    os.remove(path)
    for _ = 1, 8 do
      local made = serving:step()
      assert.same({ a, b }, { made[1].id, made[2].id })
      assert.equal(made[1].token, made[2].token)
    end
    assert.error_matches(function() serving:join { stream = model:stream() } end, "no logits")
    assert.error_matches(function()
      serving:join { stream = out, prompt = { 1 } }
    end, "one of the two")
    assert.error_matches(function() serving:join {} end, "one of the two")
    assert.error_matches(function() serving:join { prompt = {} } end, "at least one token")
  end)

  it("serves layers in Lua, each sequence by itself", function()
    local calls = 0
    local layer = {
      forward = function(_, x) return x end,
      step = function(_, x, state)
        assert.equal(1, x:size(1))
        state.n = (state.n or 0) + 1
        calls = calls + 1
        if state.n == 6 then error "six is enough" end
        return x * (1 + 0.1 * state.n)
      end,
    }
    pf.seed(4)
    local model = nn.chain { nn.embedding { vocab = 11, dim = 8 }, layer,
      nn.attention { dim = 8, heads = 2, causal = true, kernel = { features = 8 } },
      nn.linear { from = 8, to = 11 } }
    local serving = model:serve()
    local a = serving:join { prompt = { 1, 2 }, tokens = 3 }
    local b = serving:join { prompt = { 4 }, tokens = 9 }
    local ids, ended = drain(serving)
    assert.is_true(calls > 6)
    assert.same(alone(model, { 1, 2 }, 3), ids[a])
    assert.same(alone(model, { 4 }, 5), ids[b])
    assert.same({ "failed", "PF_EHOST" }, { ended[b].ended, ended[b].code })
    assert.matches("six is enough", ended[b].message)
  end)

  it("serves models of two sequences", function()
    pf.seed(5)
    local model = nn.encoder_decoder { encoder = { layers = 1 }, decoder = { layers = 1 },
                                       vocab = 11, dim = 16, heads = 2 }
    local serving = model:serve()
    local sources, id = { { 1, 2, 3 }, { 4, 5, 6, 7, 8 } }, {}
    for i, source in ipairs(sources) do
      id[i] = serving:join { prompt = { i }, tokens = 5, source = source }
    end
    local ids = drain(serving)
    for i, source in ipairs(sources) do
      local given = pf.tensor(source, { dtype = "i32" }):reshape(1, #source)
      assert.same(alone(model, { i }, 5, nil, { source = given }), ids[id[i]])
    end
    assert.has_error(function() serving:join { prompt = { 1 } } end)
  end)

  it("refuses what can't stream, and words that it doesn't know", function()
    assert.error_matches(function() model_of { causal = false }:serve() end, "causal")
    assert.error_matches(function() model_of():serve { batch = 3 } end, "unknown option 'batch'")
    assert.error_matches(function() model_of():serve { capacity = -1 } end, "at least 0")
    local serving = model_of():serve()
    assert.error_matches(function()
      serving:join { prompt = { 1 }, temprature = 1 }
    end, "temperature")
    assert.error_matches(function() serving:join { prompt = { 1 }, tokens = -1 } end, "at least 0")
    assert.error_matches(function()
      serving:join { prompt = { 1 }, stop = 1.5 }
    end, "stop is an id")
  end)

  it("asks options themselves, no metatable of theirs, which could close it meanwhile", function()
    local model, asked = model_of(), 0
    local function closes(thing)
      return setmetatable({}, { __index = function() asked = asked + 1; thing:close() end })
    end
    local serving = model:serve()
    local id = serving:join { prompt = { 1, 2 } }
    serving:step()
    serving:sampling(id, closes(serving))
    assert.are.equal(1, serving:count())
    local stream = model:stream():feed { 1, 2 }
    assert.are.equal("integer", math.type(stream:sample(closes(stream))))
    assert.are.equal("integer", math.type(stream:next(1, closes(stream))))
    assert.are.equal(0, asked)
  end)
end)
