/** What `lease help COMMAND` begins with: examples. */

export const EXAMPLES: Readonly<Record<string, string>> = {
  lease: `Examples:
  export LEASE_URL=postgres://user@host/database LEASE_NAMESPACE=billing
  lease exec nightly --if-busy skip -- ./nightly.sh    run a job that no other machine runs meanwhile
  lease list                                           who holds what
  lease show nightly                                   everything about one lease
  lease revoke nightly                                 take it from a holder that is dead
  lease doctor                                         why it does not work
`,
  exec: `Examples:
  lease exec nightly -- ./nightly.sh --all             run it; end with 75 if another machine runs it
  lease exec nightly --if-busy skip -- ./nightly.sh    the same for cron: end with 0 if another runs it
  lease exec nightly --at-least 1m -- ./nightly.sh     also if the clocks of the machines differ by a minute
  lease exec deploy --wait=10m -- make deploy          wait for it, at most ten minutes
  lease exec --any slot-1 slot-2 slot-3 -- ./worker    whichever is free
  lease exec downloads --permits 4 -- curl -O URL      at most four at once
  lease exec report -c './collect && ./send'           a line for the shell

The command gets SIGTERM before the lease can lapse, and SIGKILL at the latest when it may not be relied on any more.
Its exit code is passed on. 75: another holds the lease. 124: the lease was lost, or --max-time was over.
`,
  list: `Examples:
  lease list                          all that is held
  lease list 'account-*'              names that match
  lease list --older-than 1d          held for long
  lease list --held-by web3-4711      of one holder
  lease list --json | jq -r '.[].lease'
`,
  show: `Examples:
  lease show nightly                  who holds it, since when, who pins it
  lease show semaphores/downloads     a counted lease with its permits
  lease show nightly --json           exit code 1 if nobody holds it
`,
  watch: `Examples:
  lease watch leader                              a line for each change
  lease watch leader --until free                 until nobody holds it
  lease watch leader --exec './notify "$LEASE_HOLDER"'
`,
  wait: `Examples:
  lease wait migration                until nobody holds it
  lease wait migration --timeout 5m   75 if it is still held then
`,
  acquire: `Examples:
  lease acquire deploy --token-file /run/deploy.lease --duration 2h
  lease release /run/deploy.lease
  lease acquire maintenance --token-file m.lease --pin   until it is released, however long that takes

Nobody renews the lease: it lasts for --duration. For a command that runs meanwhile take lease exec.
`,
  release: `Example:
  lease release /run/deploy.lease     the file of lease acquire; 1 if that term is over already
`,
  revoke: `Examples:
  lease show nightly                            look first: which term is it?
  lease revoke nightly --token 1764449000123    only that term
  lease revoke nightly --dry-run                what would happen
  lease revoke --all-of web3-4711 --yes         all that a dead process holds
`,
  pin: `Example:
  lease pin maintenance ops           it does not lapse while it is pinned, whatever happens to its holder
`,
  unpin: `Example:
  lease unpin maintenance ops
`,
  pins: `Example:
  lease pins                          which leases cannot lapse, and by whose wish
`,
  migrate: `Examples:
  LEASE_MIGRATE_URL=postgres://owner@host/database lease migrate
  lease migrate --dry-run             print the SQL; the same as lease plans
  LEASE_MIGRATE_URL=dynamodb://eu-west-1/leases lease migrate
`,
  plans: `Examples:
  lease plans > migration.sql         for people who migrate by hand
  lease plans > table.json            of DynamoDB: a template of CloudFormation
`,
  collect: `Example:
  lease collect --retention 1d        remove the rows of leases that were vacant for a day
`,
  doctor: `Examples:
  lease doctor                        what is wrong, and what to do
  lease doctor --json                 for a deployment: exit code 1 on findings
`,
  console: `Examples:
  lease console                       a page on this machine that shows the leases
  lease console --write --port 8000   with buttons that revoke and pin
`,
  completion: `Examples:
  lease completion bash > /etc/bash_completion.d/lease
  lease completion zsh > "\${fpath[1]}/_lease"
  lease completion fish > ~/.config/fish/completions/lease.fish
`,
}
