-- patterns_spec.lua - every rule of patterns against its plain definition (support/patterns.lua):
-- the same pairs, each once, at lengths around every edge, causal and full, for more keys than
-- queries, under limits; a prefix has the pattern of the whole. Then pf.pattern as a user calls it,
-- and what its errors say. The spec loops over the engine's table: a rule without a definition
-- fails.
local pf = require "performer"
local array = require "spec.support.array"
local patterns = require "spec.support.patterns"
require "spec.support"

local LENGTHS = { 1, 2, 63, 127, 128, 129, 130, 517 }

local function flatten(rows)
  local flat, n = {}, 0
  for _, row in ipairs(rows) do
    for _, x in ipairs(row) do
      n = n + 1
      flat[n] = x
    end
  end
  return flat
end

local function tensor_of(list) return pf.tensor(list, { dtype = "i32" }) end

--- The engine's matrix for a question, flat.
local function matrix_of(words, asked)
  local buckets = asked.buckets and tensor_of(asked.buckets)
  return array.of(pf.pattern_matrix(words, { length = asked.length, keys = asked.keys,
    causal = asked.causal, head = asked.head or 0, buckets = buckets,
    limits = asked.limits and tensor_of(asked.limits) }))
end

--- The first place where two flat matrices differ, in words; nil where they agree.
local function difference(got, want, columns)
  if #got ~= #want then return ("%d pairs, wanted %d"):format(#got, #want) end
  for i = 1, #want do
    if got[i] ~= want[i] then
      return ("query %d, key %d (from 0): %d, wanted %d"):format((i - 1) // columns,
        (i - 1) % columns, got[i], want[i])
    end
  end
end

local function text_of(rule, sample, at)
  local parts = {}
  for name, value in pf.sorted(sample.options) do parts[#parts + 1] = name .. " = " .. value end
  return ("%s { %s }, length %d, keys %s, %s%s"):format(rule.name, table.concat(parts, ", "),
    at.length, at.keys or "as many", at.causal and "causal" or "full",
    at.limits and ", limits" or "")
end

local function check(rule, sample, at, random)
  if at.length < (sample.least or 0) then return end
  local asked, words = patterns.question(rule, sample, random, at)
  local want = flatten(patterns.matrix(rule, sample.options, asked))
  local got = matrix_of(words, asked)
  local why = difference(got, want, at.keys or at.length)
  if why then error(text_of(rule, sample, at) .. ": " .. why, 0) end
  return want, words, asked
end

--- Which forms a sample is for.
local function forms(rule, sample)
  local list = {}
  if rule.causal and sample.causal ~= false then list[#list + 1] = true end
  if rule.full and sample.causal ~= true then list[#list + 1] = false end
  return list
end

for _, rule in ipairs(pf.patterns()) do
  describe("the pattern " .. rule.name, function()
    local samples = patterns.samples[rule.name]

    it("has a definition and samples", function()
      assert.is_function(patterns.rules[rule.name], "spec/support/patterns.lua")
      assert.is_table(samples, "spec/support/patterns.lua")
    end)

    it("is what its definition says, each pair once, at every length", function()
      local random = array.random(1)
      for n, sample in ipairs(samples) do
        for form, causal in ipairs(forms(rule, sample)) do
          for _, length in ipairs(LENGTHS) do -- the longest for every other form alone
            if length < 500 or (n + form) % 2 == 0 then
              check(rule, sample, { length = length, causal = causal }, random)
            end
          end
        end
      end
    end)

    it("is so for fewer queries than keys, other heads, limits", function()
      local random = array.random(2)
      for _, sample in ipairs(samples) do
        for _, causal in ipairs(forms(rule, sample)) do
          if causal or not sample.own then
            check(rule, sample, { length = 130, keys = 301, causal = causal, head = 3 }, random)
          end
        end
        for _, length in ipairs { 1, 130, 260 } do
          if rule.causal and sample.causal ~= false then
            local limits = {}
            for i = 1, length do limits[i] = random:below(length + 1) end
            check(rule, sample, { length = length, causal = true, limits = limits }, random)
          end
        end
      end
    end)

    it("counts what it has", function()
      local random = array.random(3)
      for _, sample in ipairs(samples) do
        for _, causal in ipairs(forms(rule, sample)) do
          local want, words, asked = check(rule, sample, { length = 260, causal = causal }, random)
          local count, tiles = pf.pattern_count(words, { length = 260, causal = causal,
            buckets = asked.buckets and tensor_of(asked.buckets) })
          for i, n in ipairs(count:totable()) do
            for j = 1, 260 do n = n - want[(i - 1) * 260 + j] end
            assert.equal(0, n)
          end
          assert.is_true(tiles:item() >= 0)
        end
      end
    end)

    it("is for a prefix what it is for the whole", function()
      local random = array.random(4)
      for _, sample in ipairs(samples) do
        if rule.causal and sample.causal ~= false and not sample.fixed then
          local asked, words = patterns.question(rule, sample, random,
            { length = 300, causal = true })
          local whole = matrix_of(words, asked)
          for _, length in ipairs { 130, 200 } do
            local buckets
            for round, row in ipairs(asked.buckets or {}) do
              buckets = buckets or {}
              buckets[round] = { table.unpack(row, 1, length) }
            end
            local part, want = matrix_of(words, { length = length, causal = true,
              buckets = buckets }), {}
            for i = 1, length do
              for j = 1, length do want[#want + 1] = whole[(i - 1) * 300 + j] end
            end
            local why = difference(part, want, length)
            assert.is_nil(why, text_of(rule, sample, { length = length, causal = true }))
          end
        end
      end
    end)
  end)
end

-- ---- as a user calls it ----------------------------------------------------------------

describe("pf.pattern", function()
  local pattern = pf.pattern

  local function rows(p, length, options) return p:matrix(length, options):totable() end

  it("is for no key and for one, as it is said", function()
    for _, rule in ipairs(pf.patterns()) do
      for _, L in ipairs(rule.lists and {} or { 0, 1 }) do
        for _, causal in ipairs { true, false } do
          local o = { causal = causal,
                      buckets = rule.buckets and pf.zeros(1, L, { dtype = "i32" }) or nil }
          assert.equal(L, (pattern[rule.name]():count(L, o)))
          assert.same({ L, L }, pattern[rule.name]():matrix(L, o):shape())
        end
      end
    end
    for _, kind in ipairs(pf.kinds()) do
      for _, L in ipairs { 0, 1 } do
        local x = pf.randn(1, 2, L, 4)
        local graph = kind.edges and pf.graph { from = {}, to = {}, nodes = L } or nil
        assert.same({ 1, 2, L, 4 }, pf.attention[kind.name](x, x, x, { graph = graph }):shape())
      end
    end
    assert.equal(16, (pattern.fixed { stride = 16, part = "near" }:count(1)) * 16)
  end)

  it("counts the query's own key in a window", function()
    local window = pattern.sliding { window = 3 }
    assert.same({ { 1, 0, 0, 0 }, { 1, 1, 0, 0 }, { 1, 1, 1, 0 }, { 0, 1, 1, 1 } },
      rows(window, 4, { causal = true }))
    assert.same({ 1, 2, 3, 3, 3 }, window:keys(5, { causal = true }):totable())
    assert.equal(7, window:keys(20):totable()[10])
    assert.equal(12, (window:count(5, { causal = true })))
    local _, tiles = pattern.sliding { window = 256 }:count(1000000, { causal = true })
    assert.equal(3 * 7813 - 3, tiles)
    assert.same({ { 0, 1, 1, 1, 0 }, { 0, 0, 1, 1, 1 } },
      rows(window, 2, { keys = 5, causal = true }))
    assert.same({ { 0, 0, 0 }, { 1, 1, 0 } },
      rows(window, 2, { keys = 3, limits = pf.tensor({ 0, 2 }, { dtype = "i32" }) }))
  end)

  it("prints what was said", function()
    assert.equal("pattern sliding { window = 3 }", tostring(pattern.sliding { window = 3 }))
    assert.equal("pattern strided", tostring(pattern.strided()))
    assert.equal("pattern tiles { block = 8 }", tostring(pattern.tiles({ { 1 } }, { block = 8 })))
    assert.matches("sliding.*strided", tostring(pf.pattern))
  end)

  it("takes lists, functions, blocks and matrices", function()
    local lists = { { 1 }, {}, { 3, 1 } }
    local wanted = { { 1, 0, 0 }, { 0, 0, 0 }, { 1, 0, 1 } }
    assert.same(wanted, rows(pattern.rows(lists), 3))
    assert.same(wanted, rows(pattern.matrix(wanted), 3))
    assert.same(wanted, rows(pattern.matrix(pf.tensor(wanted)), 3))
    assert.same({ { 1, 0, 0, 1 }, { 0, 1, 0, 1 } },
      rows(pattern.rows(function(i, length) return { i, length } end), 2, { keys = 4 }))
    local steps = pattern.rows(function(i) return i > 1 and { i - 1 } or {} end)
    for _, length in ipairs { 1, 5, 140 } do
      assert.equal(length - 1, (steps:count(length)))
    end
    local blocks = pattern.tiles({ { 1 }, { 2, 1 } }, { block = 2 })
    assert.same({ { 1, 0, 0 }, { 1, 1, 0 }, { 1, 1, 1 } }, rows(blocks, 3, { causal = true }))
    assert.same({ { 1, 1, 0 }, { 1, 1, 0 }, { 1, 1, 1 } }, rows(blocks, 3))
    assert.same(wanted, pattern.rows(lists):matrix():totable())
    assert.has_error(function() pattern.matrix { 2, 3 } end,
      "pattern.matrix: row 1 must be a list of numbers, got number")
    assert.equal(2, (pattern.matrix { { 1, 0, 1 } }:count()))
    local asked = 0
    local once = pattern.rows(function(i) asked = asked + 1 return { i } end)
    assert.equal(7, (once:count(7)) + 0 * once:count(7))
    assert.equal(7, asked)
    local far = pattern.tiles(function(i, n) return { n, i ~= n and i or nil } end)
    assert.equal(64 * 64 * 2 + 64 * 64, (far:count(128)))
  end)

  it("draws random blocks by seed, layer and head, the same every time", function()
    local function graph(options, head)
      options.block = 2
      return pattern.bigbird(options):matrix(200, { causal = true, head = head }):tobytes()
    end
    local first = graph { seed = 5 }
    assert.equal(first, graph { seed = 5 })
    assert.equal(first, graph({ seed = 5 }, 1))
    assert.are_not.equal(first, graph { seed = 6 })
    assert.are_not.equal(first, graph { seed = 5, layer = 1 })
    assert.are_not.equal(first, graph({ seed = 5 }, 2))
  end)

  it("draws a picture", function()
    local text = pattern.sliding { window = 2 }:svg(3, { causal = true })
    assert.matches("^<svg .*<title>pattern sliding { window = 2 }</title>.*</svg>\n$", text)
    local _, cells = text:gsub('fill%-opacity="1.00"', "")
    assert.equal(3, cells) -- a run of neighbours each
    assert.is_true(#pattern.strided():svg(3000) > 1000)
    assert.matches("^<svg", pattern.sliding():svg(0))
    assert.matches("^<svg", pattern.sliding():svg())
    local wide = pattern.matrix { { 1, 0, 1, 1 }, { 0, 0, 1, 0 } }
    assert.matches('width="514" height="258"', wide:svg())
  end)

  it("says what is wrong, and the number", function()
    for message, f in pairs {
      ["window.*1 to.*got 0"] = function() pattern.sliding { window = 0 } end,
      ["sliding: options must be a table, got number"] = function() pattern.sliding(5) end,
      ["windw.*window"] = function() pattern.sliding { windw = 3 } end,
      ["stride.*1 to.*got 0"] = function() pattern.strided { stride = 0 } end,
      ["part.*both, near, far.*middle"] = function() pattern.strided { part = "middle" } end,
      ["last = 9.*stride = 4"] = function() pattern.fixed { stride = 4, last = 9 } end,
      ["window_blocks = 4.*odd"] = function() pattern.bigbird { window_blocks = 4 } end,
      ["global = 12.*only 10 tokens"] = function() pattern.sliding { global = 12 }:matrix(10) end,
      ["global_blocks = 4.*only 3 blocks of 64"] = function()
        pattern.bigbird { global_blocks = 4 }:matrix(130)
      end,
      ["ahead = 3.*causal"] = function()
        pattern.sliding { ahead = 3 }:matrix(10, { causal = true })
      end,
      ["2 queries and 2 keys, not for 3 and 3"] = function()
        pattern.matrix { { 1, 0 }, { 1, 1 } }:matrix(3)
      end,
      ["2 queries and 3 keys, not for 3 and 3"] = function() pattern.rows { {}, {} }:matrix(3) end,
      ["2 and 4 blocks of 64, but 200 queries"] = function()
        pattern.tiles { { 1 }, { 2 } }:matrix(200)
      end,
      ["query 2 lists key 4, but there are 2"] = function()
        pattern.rows { {}, { 4 } }:matrix(2)
      end,
      ["query 2 lists key 0, but there are 2"] = function()
        pattern.rows { {}, { 0 } }:matrix(2)
      end,
      ["query 1 lists key 2 twice"] = function() pattern.rows { { 2, 1, 2 }, {} }:matrix(2) end,
      ["block of queries 1 lists block 2"] = function() pattern.tiles { { 2 } }:matrix(3) end,
      ["number 2.*nil"] = function() pattern.rows(function(i) return i < 2 and {} or nil end)
        :matrix(2) end,
      ["1.5"] = function() pattern.rows { { 1.5 } }:matrix(1) end,
      ["row 2 has 1 numbers, the first has 2"] = function() pattern.matrix { { 1, 0 }, { 1 } } end,
      ["block.*got 0"] = function() pattern.tiles({}, { block = 0 }) end,
      ["lists.*got number"] = function() pattern.rows(3) end,
      ["length.*got string"] = function() pattern.sliding():matrix "8" end,
      ["causl.*causal"] = function() pattern.sliding():matrix(8, { causl = true }) end,
      ["pattern.rows: unknown option 'block'"] = function() pattern.rows({ {} }, { block = 4 }) end,
      ["pattern.matrix: unknown option 'block'"] = function()
        pattern.matrix({ { 1 } }, { block = 4 })
      end,
      ["sliding goes by no bucket numbers"] = function()
        pattern.sliding():matrix(4, { buckets = pf.zeros(1, 4, { dtype = "i32" }) })
      end,
      ["queries says which ones see beside global tokens"] = function()
        pattern.sliding { queries = "local" }
      end,
      ["list of number 1 has %-9223372036854775808"] = function()
        pattern.rows({ { math.mininteger } }):matrix(1)
      end,
      ["length = 2147483647 must be 0 to 16777216"] = function()
        pattern.sliding():count(2147483647)
      end,
      ["heads count from 1, got 0"] = function() pattern.bigbird():matrix(8, { head = 0 }) end,
      ["buckets"] = function() pattern.lsh():matrix(8) end,
      ["slidin.*sliding"] = function() pattern.slidin() end,
    } do
      assert.raises(message, f)
    end
  end)
end)
