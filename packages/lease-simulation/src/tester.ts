/** What a random tester is to its command line. */

/** What became of one run. */
export interface Outcome {
  readonly problems: readonly { readonly rule: string; readonly what: string }[]
  readonly log: readonly string[]
  readonly calls: number
  /** Terms opened in the store. */
  readonly terms: number
  /** Claims and extensions granted by the store. */
  readonly grants: number
  readonly simulatedMs: number
}

export interface Tester<Settings> {
  /** The script of the workspace that runs it. */
  readonly script: string
  readonly defaultSteps: number
  /** @throws Error naming the flag that is none */
  checkFlags(flags: readonly string[]): void
  settingsOf(seed: number, flags: readonly string[], steps: number): Settings
  /** For people: what is turned on. */
  featuresOf(settings: Settings): readonly string[]
  run(
    settings: Settings,
    options: { readonly without?: ReadonlySet<number> | undefined; readonly log: boolean },
  ): Promise<Outcome>
}
