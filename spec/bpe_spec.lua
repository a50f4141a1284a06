-- bpe_spec.lua - the tokenizer of llama2.c: joins neighbours by score as its definition says, and
-- refuses files that are none.
local array = require "spec.support.array"
local foreign = require "spec.support.foreign"
local pf = require "performer"
local support = require "spec.support"

local PIECES = { { " ", -9 }, { "a", -9 }, { "b", -9 }, { "c", -9 }, { "ab", -1 }, { "bc", -2 },
                 { " a", -4 }, { "abc", -3 }, { "aa", -5 }, { "é", -9 } }
local FIRST = 259 -- of the pieces

describe("tokenizer.llama2c", function()
  local path
  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  local function open(bytes)
    support.write(path, bytes or foreign.vocabulary(PIECES))
    return pf.tokenizer.llama2c(path)
  end

  local function encode(t, text) return { table.unpack(t:encode(text):totable()) } end

  --- The same by its definition: every pass joins the best pair, the leftmost of equal ones.
  local function by_passes(text)
    local ids, score = {}, {}
    for i, p in ipairs(PIECES) do ids[p[1]], score[FIRST + i - 1] = FIRST + i - 1, p[2] end
    local function piece(id) return PIECES[id - FIRST + 1][1] end
    local list = { ids[" "] }
    for c in text:gmatch "." do list[#list + 1] = ids[c] end
    while true do
      local best, at
      for i = 1, #list - 1 do
        local id = ids[piece(list[i]) .. piece(list[i + 1])]
        if id and (not best or score[id] > score[best]) then best, at = id, i end
      end
      if not best then return list end
      list[at] = best
      table.remove(list, at + 1)
    end
  end

  it("joins what scores highest first", function()
    local t = assert(open())
    assert.are.equal(FIRST + #PIECES, t:size())
    assert.are.same({ FIRST, FIRST + 7 }, encode(t, "abc")) -- ab before " a", then abc
    assert.are.same({ FIRST + 6, FIRST + 1 }, encode(t, "aa")) -- the leftmost, with a better score
    local random = array.random(5)
    for _ = 1, 40 do
      local letters = {}
      for i = 1, 1 + random:below(30) do
        letters[i] = ("abc "):sub(1 + random:below(4)):sub(1, 1)
      end
      local text = table.concat(letters)
      assert.are.same(by_passes(text), encode(t, text))
      assert.are.equal(" " .. text, t:decode(t:encode(text)))
    end
  end)

  it("falls back to bytes, and knows no text and several bytes a character", function()
    local t = assert(open())
    assert.are.same({}, encode(t, ""))
    assert.are.same({ FIRST, FIRST + 9, 3 + 0xC3, 3 + 0xB1, 3 + 0xFF }, encode(t, "éñ\xFF"))
    assert.are.equal(" éñ\xFF", t:decode(t:encode "éñ\xFF"))
    assert.are.equal("a", t:decode { 1, FIRST, FIRST + 1, 2 })
    assert.are.same({ 0, 1, 2 }, { t:special "unknown", t:special "begin", t:special "end" })
    assert.is_nil(t:special "mask")
    assert.are.equal("llama2c tokenizer, 269 tokens", tostring(t))
  end)

  it("serves generate", function()
    local t = assert(open())
    pf.seed(1)
    local model = pf.nn.performer { vocab = t:size(), dim = 8, layers = 1, heads = 2,
                                    causal = true }
    local text = model:generate { prompt = "abc", tokens = 4, tokenizer = t, seed = 1 }
    assert.are.equal("string", type(text))
  end)

  it("refuses what is no vocabulary", function()
    local short = string.pack("<i4fi4", 4, 0, 3) .. "abc"
    for _, bytes in ipairs { "", "text", foreign.vocabulary(PIECES):sub(1, -3), short,
                             string.pack("<i4fi4", 4, 0, -1) } do
      local t, message, code = open(bytes)
      assert.is_nil(t)
      assert.truthy(message:find "is no vocabulary of llama2.c", message)
      assert.are.equal("PF_EFORMAT", code)
    end
    os.remove(path)
    local t, message, code = pf.tokenizer.llama2c(path)
    assert.is_nil(t)
    assert.truthy(message:find "No such file")
    assert.are.equal("PF_ENOTFOUND", code)
  end)
end)
