--- log_fields.lua - the fields of a run's log.jsonl: what each is, in which lines it stands, and
-- under which name TensorBoard has it. The table in bindings/README.md and the columns of log.csv
-- are made of these rows; spec/events_spec.lua holds them against what `train` writes.
local log_fields = {}

--- { name, type, lines, help }. lines: "all"; "step", all but the last; "judged", of steps that
-- were evaluated; "first", of a run or after going on; "last". may: not in every one of them; csv:
-- a column of log.csv; tag: the name in TensorBoard.
log_fields.rows = {
  { "step", "integer", { "all" }, "the step, counted from 1", csv = true },
  { "steps", "integer", { "all" }, "steps of the whole run (with `--minutes` once they are fixed)",
    may = true },
  { "loss", "number", { "step" }, "of this step's batch, nats a token", csv = true,
    tag = "train/loss" },
  { "smoothed", "number", { "step" }, "its running mean, in which a step counts a twentieth (the "
    .. "plain mean of the first 20)", csv = true, tag = "train/smoothed" },
  { "valid_loss", "number", { "judged", "last" }, "of the held-out rows, nats a token; in the last "
    .. "line of all of them", csv = true, tag = "valid/loss" },
  { "valid_rows", "integer", { "judged" }, "held-out rows that were looked at" },
  { "valid_tokens", "integer", { "judged" }, "their tokens" },
  { "lr", "number", { "step" }, "learning rate", csv = true, tag = "train/lr" },
  { "norm", "number", { "step" }, "the gradient's norm before clipping (left out where it is not "
    .. "finite)", csv = true, may = true, tag = "train/gradient_norm" },
  { "tokens_seen", "integer", { "step" }, "training tokens so far", csv = true, may = true },
  { "tokens_per_s", "number", { "step" }, "tokens a second, since the line before", csv = true,
    tag = "speed/tokens_per_s" },
  { "seconds", "number", { "all" }, "time of the run so far", csv = true },
  { "bytes_peak", "integer", { "all" }, "most bytes that the engine held, so far", csv = true,
    tag = "memory/bytes_peak" },
  { "ranks", "integer", { "step" }, "how many trained together, where several did", may = true },
  { "wait_s", "number", { "step" }, "seconds that rank 0 has waited for the others, since the line "
    .. "before", may = true },
  { "slowest", "integer", { "step" }, "the rank that has waited least, for which the others did",
    may = true },
  { "attention", "table", { "step" }, "at evaluations and the last step: what the features' error "
    .. "is, by `model:attention_report()`", may = true },
  { "data", "table", { "first" }, "paths, `valid` paths, format, checksum, documents, duplicates, "
    .. "`shared` with the held-out files, `clusters` and `identity` (`data:identity()`, with "
    .. "`--split homology` or `--valid`), records left out" },
  { "command", "string", { "first" }, "as it was typed", may = true },
  { "machine", "table", { "first" }, "version, lua, cpu, level (of the kernels), threads, blas, "
    .. "system, kernel, memory" },
  { "init", "table", { "first" }, "with `--init`: {path, loaded, missing, unexpected, misshapen}",
    may = true },
  { "final", "boolean", { "last" }, "true" },
  { "stopped", "string", { "last" }, "\"patience\", where that ended the run", may = true },
  { "best_step", "integer", { "last" }, "the best step by the held-out rows", may = true },
  { "best_loss", "number", { "last" }, "its held-out loss", may = true },
  { "train_loss", "number", { "last" }, "`smoothed` of the last step" },
  { "valid_perplexity", "number", { "last" }, "exp of that loss", tag = "final/perplexity" },
  { "valid_accuracy", "number", { "last" }, "share of held-out tokens whose likeliest guess is "
    .. "right", tag = "final/accuracy" },
  { "tokens", "integer", { "last" }, "held-out tokens" },
  { "sample", "boolean", { "last" }, "true where these are not all", may = true },
  { "baseline_perplexity", "number", { "last" }, "what counting letters gets on them", may = true },
  { "pair_perplexity", "number", { "last" }, "what counting pairs gets on them", may = true },
  { "params", "integer", { "last" }, "the model's parameters" },
  { "params_ngrams", "integer", { "last" }, "those of them that are the n-gram memory" },
  { "params_trained", "integer", { "last" }, "those that are trained, where not all are",
    may = true },
}

local SAY = { all = "every", step = "steps", judged = "evaluations", first = "the first",
              last = "the last" }

--- The table as Markdown.
function log_fields.markdown()
  local lines = { "| field of log.jsonl | lines | is |", "| --- | --- | --- |" }
  for _, row in ipairs(log_fields.rows) do
    local where = {}
    for i, kind in ipairs(row[3]) do where[i] = SAY[kind] end
    lines[#lines + 1] = ("| `%s` | %s | %s |"):format(row[1], table.concat(where, ", "), row[4])
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- log.csv ----

local columns = {}
for _, row in ipairs(log_fields.rows) do
  if row.csv then columns[#columns + 1] = row[1] end
end

--- The first line of log.csv.
function log_fields.csv_head() return table.concat(columns, ",") .. "\n" end

--- A record as a line of it; what it hasn't got is empty.
function log_fields.csv_line(record)
  local cells = {}
  for i, name in ipairs(columns) do
    local value = record[name]
    cells[i] = value == nil and "" or math.type(value) == "integer" and ("%d"):format(value)
      or ("%.9g"):format(value)
  end
  return table.concat(cells, ",") .. "\n"
end

-- ---- TensorBoard ----

--- The scalars of a record, a list of { tag, value }. The last line has a held-out loss of its own:
-- of all rows.
function log_fields.scalars(record)
  local list = {}
  for _, row in ipairs(log_fields.rows) do
    local value, tag = record[row[1]], row.tag
    if record.final and row[1] == "valid_loss" then tag = "final/loss" end
    local again = record.final and row[3][1] == "all" -- as the line before
    if value and tag and not again then list[#list + 1] = { tag, value } end
  end
  return list
end

return log_fields
