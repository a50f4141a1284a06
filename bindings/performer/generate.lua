-- performer/generate.lua: model:generate: a prompt, what is sampled after it, and where it ends.
--
-- A stop is an id or a text. A text is looked for in what the new tokens say, wherever it begins
-- and ends among them; a token that may still be the beginning of one is held back from `each`.
local core = require "performer.core"
local prompts = require "performer.prompt"
local util = require "performer.util"

local Module = core.methods("performer.module")

-- ---- options ------------------------------------------------------------------------

--- A stop's text as the tokenizer writes it.
local function stop_text(text, tokenizer)
  if text == "" then util.fail "generate: a stop must not be empty" end
  if not tokenizer then
    util.fail("generate: the stop '%s' is a text, which needs a tokenizer", text)
  end
  local ids, message = tokenizer:encode(text)
  if not ids then util.fail("generate: the stop '%s' can't be written: %s", text, message) end
  return tokenizer:decode(ids)
end

--- What ends the text: { ids = { [id] = true }, texts = { text ... } }.
local function read_stops(value, tokenizer)
  local stops = { ids = {}, texts = {} }
  if value == nil then return stops end
  for _, stop in ipairs(type(value) == "table" and value or { value }) do
    if type(stop) == "string" then
      table.insert(stops.texts, stop_text(stop, tokenizer))
    elseif math.tointeger(stop) and math.type(stop) and stop >= 0 then
      stops.ids[math.tointeger(stop)] = true
    else
      util.fail("generate: a stop is an id or a text, got %s",
        type(stop) == "number" and tostring(stop) or core.kind(stop))
    end
  end
  if type(value) == "table" then
    for key in pairs(value) do
      if math.type(key) ~= "integer" or key < 1 or key > #value then
        util.fail("generate: stop is an id, a text, or a list of them")
      end
    end
  end
  return stops
end

-- ---- what is written ----------------------------------------------------------------

--- New tokens; and where texts are looked for, the last letters of what they say, and how many
--- letters of it stood before those.
local Written = {}
Written.__index = Written

-- Letters that are kept at least, beside as many as the longest stop has.
local KEPT = 1024

local function new_written(stops, tokenizer)
  local longest = 0
  for _, stop in ipairs(stops.texts) do longest = math.max(longest, #stop) end
  return setmetatable({ ids = {}, ends = {}, told = 0, text = "", gone = 0, stops = stops.texts,
                        longest = longest, tokenizer = longest > 0 and tokenizer or nil }, Written)
end

--- The place where the first stop begins in the text, which was `before` long without the last
--- token; nil: none.
local function find_stop(self, before)
  local first
  for _, stop in ipairs(self.stops) do
    local at = self.text:find(stop, math.max(1, before - #stop + 2), true)
    if at and (not first or at < first) then first = at end
  end
  return first
end

--- How many of the last letters may be the beginning of a stop.
local function open_letters(self)
  for n = math.min(self.longest - 1, #self.text), 1, -1 do
    for _, stop in ipairs(self.stops) do
      if n < #stop and self.text:sub(-n) == stop:sub(1, n) then return n end
    end
  end
  return 0
end

--- Adds a token; true when a text ends it all: tokens that reach into it are taken away.
function Written:add(id)
  self.ids[#self.ids + 1] = id
  if not self.tokenizer then return false end
  if #self.text > 2 * (KEPT + self.longest) then
    local kept = self.text:sub(-KEPT - self.longest)
    self.text, self.gone = kept, self.gone + #self.text - #kept
  end
  local before = #self.text
  self.text = self.text .. self.tokenizer:decode { id }
  self.ends[#self.ids] = self.gone + #self.text
  local stop = find_stop(self, before)
  while stop and #self.ids > 0 and self.ends[#self.ids] >= self.gone + stop do
    self.ids[#self.ids] = nil
  end
  return stop ~= nil
end

--- Calls each(id) with the tokens that stand for sure (all: it is over); false when it says so,
-- and then the last one is the one that it was called with.
function Written:tell(each, all)
  if not each then return true end
  local sure = self.gone + #self.text - (all and 0 or open_letters(self))
  while self.told < #self.ids and (not self.tokenizer or self.ends[self.told + 1] <= sure) do
    self.told = self.told + 1
    if each(self.ids[self.told]) == false then
      for i = #self.ids, self.told + 1, -1 do self.ids[i] = nil end
      return false
    end
  end
  return true
end

-- ---- generate -----------------------------------------------------------------------

--- How many tokens a sequence may have: the fewest positions of a learned table, or math.huge.
local function longest(node)
  local options, most = node.options or {}, math.huge
  local learned = node.type == "positions" and options.kind == "learned"
    or node.type == "performer" and options.positions == "learned"
  if learned then most = options.length end
  for i, child in ipairs(node.children or {}) do -- an encoder reads another sequence
    local reads = node.type ~= "encoder_decoder" or i > 1
    if reads then most = math.min(most, longest(child)) end
  end
  return most
end

function Module:longest() return longest(self:tree()) end

--- How many tokens to write at most.
local function tokens_of(value)
  local tokens = math.tointeger(value == nil and 100 or value)
  if tokens and tokens >= 0 then return tokens end
  util.fail("generate: tokens is a whole number from 0, got %s", tostring(value))
end

--- A stop that is no token of the model could never be met.
local function check_ids(stops, stream)
  if not next(stops.ids) then return end
  local vocab = stream:logits():numel()
  for id in util.sorted(stops.ids) do
    if id >= vocab then
      util.fail("generate: the stop %d is no token: the model's ids are 0 .. %d", id, vocab - 1)
    end
  end
end

local function check_room(model, prompt, tokens)
  local room = model:longest()
  if prompt + tokens - 1 <= room then return end -- the last token is not read
  util.fail("generate: a prompt of %d tokens and %d after it: the model's learned positions end "
    .. "at %d", prompt, tokens, room)
end

--- Samples up to `tokens` tokens after the prompt and returns them in the prompt's form (text,
--- tensor or list). each(id): called with every token as it comes; false stops. stop: what ends
--- the text, and is no part of it: an id, a text (with a tokenizer), or a list of them. allow: the
--- only ids that may be drawn. A model of several inputs finds them here, too: source = ids.
function Module:generate(options)
  local names = { "prompt", "tokens", "tokenizer", "stop", "each", "allow",
    table.unpack(prompts.sampling_names) }
  for _, input in ipairs(self:inputs()) do names[#names + 1] = input.name end
  util.check_options(options, names, "generate")
  options = options or {}
  local tokenizer = prompts.tokenizer(options.tokenizer, "generate")
  local prompt, length, give = prompts.start(options.prompt, tokenizer, "generate")
  local tokens, sampling = tokens_of(options.tokens), prompts.sampling(options)
  local stops = read_stops(options.stop, tokenizer)
  check_room(self, length, tokens)
  local stream <close> = self:stream(prompts.inputs(self:inputs(), options, tokenizer,
    "generate"))
  stream:feed(prompt)
  check_ids(stops, stream)
  if options.allow then stream:allow(options.allow) end
  if sampling.seed == nil then sampling.seed = core.next_seed() end
  local written, id = new_written(stops, tokenizer), nil
  for i = 1, tokens do
    id = i == 1 and stream:sample(sampling) or stream:next(id, sampling)
    if stops.ids[id] or written:add(id) then break end
    if not written:tell(options.each) then return give(written.ids) end
  end
  written:tell(options.each, true)
  return give(written.ids)
end

--- For who draws token by token: what `stop` says, and what is written until one is met.
return { stops = read_stops, written = new_written }
