--- performer eval - loss per token of a trained model on a file.
local pf = require "performer"
local cli = require "performer.cli"
local trainer = require "performer.trainer"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "data", "file", nil, "FASTA or text" },
  { "split", { "all", "train", "valid" }, "all", "which part of the file" },
  { "length", "positive", nil, "tokens a row (default: as trained)" },
  { "batch", "positive", 8, "rows at a time" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "per-sequence", "flag", nil, "one line for each sequence" },
  { "json", "flag", nil, "JSON lines on stdout" },
}

local function per_sequence(model, data, split, json)
  for i = 1, data:info(split).documents do
    local ids, name = data:document(i, split)
    local n = ids:numel()
    if n > 1 then
      local input = ids:slice(1, 1, n - 1):reshape(1, n - 1)
      local target = ids:slice(1, 2, n):reshape(1, n - 1)
      local logits = model(input)
      local loss = logits:cross_entropy(target):item()
      local record = { name = name, loss = loss, perplexity = math.exp(loss),
                       accuracy = trainer.hits(logits, target) / (n - 1), tokens = n - 1 }
      if json then
        print(pf.json.encode(record))
      else
        print(("%-24s loss %.4f  perplexity %8.3f  tokens %d"):format(name, loss,
                                                                       record.perplexity, n - 1))
      end
    end
  end
end

local function main()
  local parser = cli.add(cli.parser("eval", "Measures a trained model on a file.", {
    "performer eval --checkpoint runs/proteins --data other.fasta",
    "performer eval --checkpoint runs/proteins --data other.fasta --per-sequence --json",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.checkpoint or not options.data then
    cli.fail(2, "eval: needs --checkpoint FOLDER and --data FILE")
  end
  pf.open { threads = options.threads }
  local saved = cli.need(pf.checkpoint.load(options.checkpoint, { optimizer = false }))
  local settings = saved.state and saved.state.settings or {}
  local data = cli.need(pf.data.open {
    path = options.data, length = options.length or settings.length or 1024,
    split = options.split == "all" and "none" or nil, seed = settings.seed })
  if saved.tokenizer and saved.tokenizer ~= data:info("all").tokenizer then
    cli.fail(1, ("eval: the model reads %s tokens, but %s is %s"):format(
      saved.tokenizer, options.data, data:info("all").format))
  end
  if options.per_sequence then return per_sequence(saved.model, data, options.split, options.json) end
  local result = trainer.evaluate(saved.model, data, {
    split = options.split, batch = options.batch, masked = settings.bidirectional })
  result.tokens_per_s = result.tokens / math.max(result.seconds, 1e-9)
  if options.json then
    print(pf.json.encode(result))
  else
    print(("loss %.4f nats a token  perplexity %.3f  accuracy %.2f %%  tokens %d  %.0f tokens/s")
      :format(result.loss, result.perplexity, 100 * result.accuracy, result.tokens,
              result.tokens_per_s))
  end
end

main()
