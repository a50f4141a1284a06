-- performer/serve.lua: model:serve: a running batch that sequences join and leave, each at its own
-- position, with its own sampling and end.
local core = require "performer.core"
local prompts = require "performer.prompt"
local util = require "performer.util"

local Module = core.methods("performer.module")
local Serving = core.methods("performer.serving")

--- What the models of servings read beside a prompt.
local inputs_of = setmetatable({}, { __mode = "k" })

--- A running batch (continuous batching). capacity: sequences at a time (no bound); slice: prompt
--- tokens that a step takes at most (1024).
function Module:serve(options)
  options = util.check_options(options, { "capacity", "slice" }, "serve")
  local serving = core.open_serving(self, options)
  inputs_of[serving] = self:inputs()
  return serving
end

--- The ids of what ends a sequence: an id, a text of one token, or a list of them.
local function read_stops(value, tokenizer)
  local ids = {}
  for i, stop in ipairs(type(value) == "table" and value or { value }) do
    if type(stop) == "string" then
      local text = stop
      stop = prompts.read(text, tokenizer, "join"):totable()
      if #stop ~= 1 then
        util.fail("join: the stop '%s' is %d tokens; a sequence ends at one: look for longer texts "
          .. "in what was made, and let it leave", text, #stop)
      end
      stop = stop[1]
    elseif not math.tointeger(stop) or stop < 0 then
      util.fail("join: a stop is an id or a text, got %s",
        type(stop) == "number" and tostring(stop) or core.kind(stop))
    end
    ids[i] = math.tointeger(stop)
  end
  return ids
end

local join = Serving.join

--- A sequence more; its id. prompt: ids, or a text with a tokenizer; or stream: one that was fed,
--- of which a copy goes on. tokens: it ends after so many; stop: ids (texts of one token) that end
--- it; allow: the only ids that may be drawn; temperature, top_k, top_p, min_p,
--- repetition_penalty, seed as of a stream.
function Serving:join(options)
  local names = { "prompt", "stream", "tokenizer", "tokens", "stop", "allow",
    table.unpack(prompts.sampling_names) }
  local inputs = inputs_of[self] or {}
  for _, input in ipairs(inputs) do names[#names + 1] = input.name end
  options = util.check_options(options, names, "join")
  if (options.prompt == nil) == (options.stream == nil) then
    util.fail("join: a sequence begins with a prompt or with a stream; give one of the two")
  end
  local tokenizer = prompts.tokenizer(options.tokenizer, "join")
  local start = options.stream or prompts.start(options.prompt, tokenizer, "join")
  local stops = options.stop ~= nil and read_stops(options.stop, tokenizer) or nil
  return join(self, start, prompts.sampling(options), options.tokens, stops, options.allow,
    prompts.inputs(inputs, options, tokenizer, "join"))
end

return Serving
