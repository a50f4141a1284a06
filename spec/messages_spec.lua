-- messages_spec.lua - what the engine says of a failure is read by those who call it from Lua or a
-- command line, too: it names no function of C. What only a host in C can cause may.
local support = require "spec.support"

-- Files whose messages are for hosts in C alone.
local OF_HOSTS = { ["engine/runtime/config.c"] = true, ["engine/runtime/status.c"] = true }

describe("messages of the engine", function()
  it("name no function of C", function()
    local list <close> = assert(io.popen "find engine -name '*.c'")
    local files, calls = 0, 0
    for path in list:lines() do
      local text = OF_HOSTS[path] and "" or support.read(path)
      files = files + 1
      for call in text:gmatch "pf_fail[%w_]*(%b())" do
        calls = calls + 1
        for words in call:gmatch '"(.-[^\\])"' do
          assert.is_nil(words:match "%f[%w_]pf_%l[%l_]+", ("%s: %s"):format(path, words))
        end
      end
    end
    assert.is_true(files > 100 and calls > 500)
  end)
end)

-- What somebody meets who tries things out, and what it is to say: the place, what is wrong there,
-- what to do.
describe("messages for who tries things out", function()
  local pf = require "performer"
  local nn = pf.nn

  local function raises(text, f, ...)
    local ok, message = pcall(f, ...)
    assert.is_false(ok)
    assert.truthy(message:find(text, 1, true), message)
  end

  it("tell a length from one that is out of bounds", function()
    local sliding = pf.pattern.sliding { window = 2 }
    raises("a whole number from 0 to 2147483647, got 1000000000000", sliding.count, sliding, 1e12)
    raises("a whole number from 0 to 2147483647, got -1", sliding.count, sliding, -1)
    raises("got 2.5", sliding.count, sliding, 2.5)
    raises("got string", sliding.count, sliding, "4")
    assert.equal(sliding:count(5, { causal = true }), sliding:count(5.0, { causal = true }))
  end)

  it("say where an option of attention stands", function()
    local of = { vocab = 4, dim = 4, layers = 1, heads = 1, causal = true }
    of.attention, of.window = "sliding", 2
    raises("nn.performer: 'window' is an option of attention, and stands with its name: "
      .. 'attention = { name = "sliding", window = 2 }', nn.performer, of)
    raises('attention = { name = "lsh", rounds = 2 }', nn.attention,
      { dim = 4, heads = 1, attention = "lsh", rounds = 2 })
    raises('attention = { name = "sliding", window = 3 }', nn.block,
      { dim = 4, heads = 1, attention = "exact", window = 3 })
    raises("unknown option 'widow'", nn.block, { dim = 4, heads = 1, widow = 3 })
    assert.truthy(nn.block { dim = 4, heads = 1, attention = { name = "sliding", window = 2 } })
  end)

  it("say what a model can begin from", function()
    local model = nn.performer { vocab = 256, dim = 4, layers = 1, heads = 1, causal = true }
    raises("generate: the prompt is empty, and a model goes on from at least one token",
      model.generate, model, { prompt = "", tokenizer = "byte", tokens = 2 })
    raises("the prompt is empty", model.generate, model, { prompt = {}, tokens = 2 })
    raises("the prompt is empty", model.generate, model,
      { prompt = pf.zeros(0, { dtype = "i32" }), tokens = 2 })
    local serving = model:serve()
    raises("join: the prompt is empty", serving.join, serving, { prompt = "", tokenizer = "byte" })
    raises("join: the prompt is empty", serving.join, serving, { prompt = {} })
    local stream = model:stream()
    raises("nothing has been fed", stream.sample, stream)
  end)
end)
