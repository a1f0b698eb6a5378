/** The random tester of `lease-recipes`, for its command and for the tests. */
import type { Tester } from 'lease-simulation'
import { run } from './run.ts'
import { checkFlags, DEFAULT_STEPS, featuresOf, settingsOf, type Settings } from './settings.ts'

export const tester: Tester<Settings> = {
  script: 'simulate:recipes',
  defaultSteps: DEFAULT_STEPS,
  checkFlags,
  settingsOf,
  featuresOf,
  run,
}
