/**
 * `npx -y pnpm@10 simulate --seeds 1-100000 [--flags late,no-pins] [--steps 120] [--jobs 2] [--keep-going] [--log]`
 *
 * Runs the random tester of `lease-core` for many seeds.
 */
import { fileURLToPath } from 'node:url'
import { runCommand } from 'lease-simulation'
import { run } from './run.ts'
import { checkFlags, DEFAULT_STEPS, featuresOf, settingsOf } from './settings.ts'

const tester = { script: 'simulate', defaultSteps: DEFAULT_STEPS, checkFlags, settingsOf, featuresOf, run }
await runCommand(tester, fileURLToPath(import.meta.url))
