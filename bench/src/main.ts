/** `pnpm bench`: see `--help`. */
import { writeFile } from 'node:fs/promises'
import { parseOptions } from './options.ts'
import { progressOn } from './progress.ts'
import { reportOf, tables } from './report.ts'
import { run } from './run.ts'
import { substrates } from './substrates/index.ts'
import { workloads } from './workloads/index.ts'

const adapters = new Set(substrates.flatMap(({ adapters }) => adapters.map(({ name }) => name)))
const options = parseOptions(
  process.argv.slice(2).filter((word, index) => !(index === 0 && word === '--')),
  {
    substrates: substrates.map(({ name }) => name),
    workloads,
    adapters: [...adapters],
  },
)

try {
  const results = await run(
    substrates.filter(({ name }) => options.substrates.includes(name)),
    workloads.filter(({ name }) => options.workloads.includes(name)),
    options,
    progressOn(process.stderr),
  )
  const report = reportOf(options, results)
  process.stdout.write(`${tables(report)}\n`)
  if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(report, undefined, 2)}\n`)
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
