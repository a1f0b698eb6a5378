/** What a run prints, for people, and what it writes, for programs. */
import { writeFileSync } from 'node:fs'
import type { CheckResult } from './checks.ts'
import type { FileResult } from './file-run.ts'
import type { Outcome } from './protocol.ts'
import type { SuiteResult } from './suite.ts'

/** Of each failure, in the summary. */
const REASON_LINES = 40

/** A line for each check and file when it is done, with what failed in it; `titles` adds a line for each test. */
export function printDone(done: CheckResult | FileResult, titles: boolean): void {
  if ('file' in done) printFile(done, titles)
  else console.log(`${mark(done.wrong === undefined)} ${seconds(done.ms)}  ${done.title}${indented(done.wrong)}`)
}

function printFile({ file, ms, outcomes, output }: FileResult, titles: boolean): void {
  const { passed, failed, skipped } = count(outcomes)
  const words = [`${passed} passed`, failed > 0 && `${failed} FAILED`, skipped > 0 && `${skipped} skipped`]
  console.log(`${mark(failed === 0)} ${seconds(ms)}  ${file.title}: ${words.filter(Boolean).join(', ')}`)
  for (const outcome of outcomes) if (titles || outcome.state === 'failed') console.log(lineOf(outcome))
  if (output.trim() !== '' && (failed > 0 || titles)) console.log(`    it wrote:${indented(output.trim())}`)
}

/** Where the time went, what failed, and the closing line `N passed, N failed`. A check that fails counts as failed. */
export function printSummary(result: SuiteResult): void {
  const { passed, failed, skipped } = totals(result)
  console.log('')
  console.log(`${seconds(result.ms)} in all`)
  if (result.serversMs > 0) console.log(`${seconds(result.serversMs)} until all servers were ready, beside the build`)
  for (const check of result.checks) console.log(`${seconds(check.ms)} ${check.title}`)
  const computedMs = result.files.reduce((sum, { cpuMs }) => sum + cpuMs, 0)
  if (computedMs > 0) console.log(`${seconds(computedMs)} of computing in the processes of the test files`)
  printTop('the slowest files:', result.files, ({ ms }) => ms)
  printTop('those that compute most:', result.files, ({ cpuMs }) => cpuMs)
  const failures = result.files.flatMap(({ file, outcomes }) =>
    outcomes.filter(({ state }) => state === 'failed').map((outcome) => ({ file, outcome })),
  )
  const wrong = result.checks.filter((check) => check.wrong !== undefined)
  // Once more, with the reasons: of a long record often only the end is kept.
  if (failures.length + wrong.length > 0) console.log('\nfailed:')
  for (const { title, wrong: reason } of wrong) console.log(`  ${title}${indented(beginningOf(reason))}`)
  for (const { file, outcome } of failures) {
    console.log(`  ${file.path}: ${outcome.path.join(' › ')}${indented(beginningOf(outcome.failure))}`)
  }
  console.log('')
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
}

function printTop(title: string, files: readonly FileResult[], msOf: (file: FileResult) => number): void {
  if (files.length < 2) return
  console.log(title)
  const top = files.toSorted((a, b) => msOf(b) - msOf(a)).slice(0, 10)
  for (const one of top) console.log(`${seconds(msOf(one))} ${one.file.title}`)
}

/** Everything as JSON; bigints of assertions are texts by now. */
export function writeJson(file: string, result: SuiteResult): void {
  const files = result.files.map((one) => ({
    file: one.file.path,
    part: one.file.part?.index,
    ms: Math.round(one.ms),
    cpuMs: Math.round(one.cpuMs),
    tests: one.outcomes,
  }))
  const { ms, serversMs, checks } = result
  writeFileSync(file, `${JSON.stringify({ ...totals(result), ms, serversMs, checks, files }, undefined, 2)}\n`)
}

export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export function totals({ checks, files }: Pick<SuiteResult, 'checks' | 'files'>): Totals {
  const tests = count(files.flatMap(({ outcomes }) => outcomes))
  return { ...tests, failed: tests.failed + checks.filter(({ wrong }) => wrong !== undefined).length }
}

/** `file: title` of everything that failed. */
export function failedTitles({ checks, files }: Pick<SuiteResult, 'checks' | 'files'>): readonly string[] {
  return [
    ...checks.filter(({ wrong }) => wrong !== undefined).map(({ title }) => title),
    ...files.flatMap(({ file, outcomes }) =>
      outcomes.filter(({ state }) => state === 'failed').map(({ path }) => `${file.path}: ${path.join(' › ')}`),
    ),
  ]
}

function count(outcomes: readonly Outcome[]): Totals {
  const of = (state: Outcome['state']): number => outcomes.filter((one) => one.state === state).length
  return { passed: of('passed'), failed: of('failed'), skipped: of('skipped') }
}

const signs = { passed: '✔', failed: '✖', skipped: '-' } as const

function mark(good: boolean): string {
  return good ? signs.passed : signs.failed
}

function lineOf({ path, state, failure, ms }: Outcome): string {
  const took = ms >= 75 ? ` (${Math.round(ms)} ms)` : ''
  return `    ${signs[state]} ${path.join(' › ')}${took}${indented(failure)}`
}

function beginningOf(text: string | undefined): string | undefined {
  return text?.split('\n').slice(0, REASON_LINES).join('\n')
}

function indented(text: string | undefined): string {
  return text === undefined ? '' : `\n${text.replaceAll(/^(?=.)/gm, '      ')}`
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1).padStart(6)} s`
}
