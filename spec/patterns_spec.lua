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
