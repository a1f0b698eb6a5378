/**
 * `npx -y pnpm@10 simulate:recipes --seeds 1-100000 [--flags late,no-leaders] [--steps 120] [--jobs 2] [--keep-going] [--log]`
 *
 * Runs the random tester of `lease-recipes` for many seeds.
 */
import { fileURLToPath } from 'node:url'
import { runCommand } from 'lease-simulation'
import { tester } from './tester.ts'

await runCommand(tester, fileURLToPath(import.meta.url))
