-- generate_spec.lua - where model:generate ends: stops that are ids or texts, wherever a text
-- begins and ends among the tokens; each; and the end of learned positions.
local pf = require "performer"
require "spec.support"

local MODEL = { vocab = 256, dim = 16, layers = 1, heads = 2, causal = true }

local function model_of(more)
  pf.seed(1)
  local options = {}
  for name, value in pairs(MODEL) do options[name] = value end
  for name, value in pairs(more or {}) do options[name] = value end
  return pf.nn.performer(options)
end

describe("generate", function()
  local model = model_of()

  --- What it writes of the letters a, b and c, so that texts of them come.
  local function write(more)
    local options = { prompt = "a", tokenizer = "byte", tokens = 300, temperature = 3, seed = 2,
                      allow = { 97, 98, 99 } }
    for name, value in pairs(more or {}) do options[name] = value end
    return model:generate(options)
  end

  local whole = write()

  it("ends before the first text that a stop names, whole and part of no token", function()
    for _, stops in ipairs { { "b" }, { "ab" }, { "abc" }, { "cba", "acc" }, { "aabb", "bab" },
                             { "aa", "aab" }, { "aab", "aa" }, { "bcbc" }, { "zzz" } } do
      local first = #whole + 1
      for _, stop in ipairs(stops) do
        first = math.min(first, whole:find(stop, 1, true) or first)
      end
      assert.equal(whole:sub(1, first - 1), write { stop = stops })
      if #stops == 1 then assert.equal(whole:sub(1, first - 1), write { stop = stops[1] }) end
      -- Ids of the same letters.
      local ids = write { prompt = { 97 }, stop = stops }
      assert.equal(whole:sub(1, first - 1), string.char(table.unpack(ids)))
    end
    assert.equal(whole:match "^[^c]*", write { stop = 99 })
    assert.equal(whole:match "^[^c]*", write { stop = { 99.0, "never" } })
  end)

  it("finds a stop late in a long text", function()
    local long = write { tokens = 6000 }
    local stop = long:sub(5900, 5920)
    local first = long:find(stop, 1, true)
    assert.is_true(first > 5000)
    assert.equal(long:sub(1, first - 1), write { tokens = 6000, stop = stop })
  end)

  it("tells each no token of a stop, and every other one", function()
    for _, stop in ipairs { "abc", "ccc", "aab", "zab" } do
      local heard = {}
      local text = write { stop = stop, each = function(id) heard[#heard + 1] = id end }
      assert.equal(text, string.char(table.unpack(heard)))
    end
    local heard = {}
    local text = write { stop = { "zz", "abcabcabcabc" }, each = function(id)
      heard[#heard + 1] = id
      return #heard < 7
    end }
    assert.equal(whole:sub(1, 7), text)
    assert.equal(7, #heard)
  end)

  it("reads a protein's stop as its tokenizer does", function()
    local protein = model_of { vocab = pf.tokenizer.protein():size() }
    local letters = assert(pf.tokenizer.protein():encode "ACDEFGHIKLMNPQRSTVWY"):totable()
    local options = { prompt = "MK", tokenizer = "protein", tokens = 60, temperature = 3, seed = 4,
                      allow = letters }
    local text = protein:generate(options)
    local letter = text:sub(30, 30)
    options.stop = letter:lower()
    assert.equal(text:sub(1, text:find(letter, 1, true) - 1), protein:generate(options))
    options.stop = "1"
    assert.raises("the stop '1' can't be written", function() protein:generate(options) end)
  end)

  it("writes a whole number of tokens", function()
    assert.equal("", write { tokens = 0 })
    for _, bad in ipairs { -1, 1.5, "many" } do
      assert.raises("generate: tokens is a whole number from 0, got",
        function() write { tokens = bad } end)
    end
  end)

  it("refuses stops that could never be met", function()
    assert.raises("generate: a stop must not be empty", function() write { stop = "" } end)
    assert.raises("a stop must not be empty", function() write { stop = { "a", "" } } end)
    assert.raises("the stop '.' is a text, which needs a tokenizer", function()
      model:generate { prompt = { 1 }, stop = "." }
    end)
    for _, bad in ipairs { true, -1, 1.5, { {} } } do
      assert.raises("a stop is an id or a text, got", function() write { stop = bad } end)
    end
    assert.raises("stop is an id, a text, or a list",
      function() write { stop = { letter = "a" } } end)
    assert.raises("the stop 300 is no token: the model's ids are 0 .. 255",
      function() write { stop = { 99, 300 } } end)
    assert.raises("there is no tokenizer 'bite'", function() write { tokenizer = "bite" } end)
  end)

  it("says beforehand that learned positions end", function()
    local short = model_of { positions = "learned", length = 8 }
    assert.equal(8, short:longest())
    assert.equal(math.huge, model:longest())
    local within = pf.nn.chain { pf.nn.embedding { vocab = 9, dim = 4 },
                                 pf.nn.chain { pf.nn.positions { kind = "learned", dim = 4,
                                                                 length = 5 } } }
    assert.equal(5, within:longest())
    assert.equal(6, #short:generate { prompt = { 1, 2, 3 }, tokens = 6 })
    assert.raises("a prompt of 3 tokens and 7 after it: the model's learned positions end at 8",
      function() short:generate { prompt = { 1, 2, 3 }, tokens = 7 } end)
  end)
end)
